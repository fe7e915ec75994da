"""Whether the latency protocol deserves to be believed: four questions that it must answer rightly, and how it did.

python -m benchmarks.latency_trust --markdown docs/measured/latency-trust.md

1. A student against itself is equivalent, or inconclusive, and hardly ever faster or slower.
2. A network that is 5 % slower is found to be.
3. The median that is reported is the one that torch.utils.benchmark and a bare loop around ONNX Runtime measure.
4. A process that burns another core is noticed.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer

import engine.runtimes
from distillery.report import Estimated, LatencyComparison
from distillery.spec import LatencySpec
from distillery.spec.dataset import DigitsData
from engine import intervals
from engine.data.dataset import Dataset
from engine.data.readers import load
from engine.environment import cpu_model, load_average
from engine.export import export_onnx
from engine.latency import Contestant, compare
from engine.latency.rounds import Plan, block_medians, interleave
from engine.latency.samples import batches
from engine.runtimes import Eager, Forms, OnnxRuntime, Runtime, Session
from engine.weights import save_safetensors
from models import build

SLOWDOWN = 0.05
OWN_LOOP_ROUNDS = 30


class Slowed:
    """A session of which each call is followed by a twentieth of its own time, wasted."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def feed(self, batches: Sequence[Tensor]) -> None:
        self._session.feed(batches)

    def call(self, index: int) -> float | None:
        began = time.perf_counter()
        told = self._session.call(index)
        ended = time.perf_counter()
        until = ended + SLOWDOWN * (ended - began)
        while time.perf_counter() < until:
            pass
        return told

    def logits(self, images: Tensor) -> np.ndarray:
        return self._session.logits(images)


class SlowedEager(Eager):
    """PyTorch, in which networks that bear the mark are slowed."""

    def load(self, forms: Forms, *, device: torch.device, threads: int) -> Session:  # type: ignore[override]  # a wrapper is wider
        session = super().load(forms, device=device, threads=threads)
        return Slowed(session) if getattr(forms.network, "is_slowed", False) else session


@contextmanager
def runtimes_are(*runtimes: Runtime) -> Iterator[None]:
    """For as long as the block lasts, these are the runtimes."""
    before = engine.runtimes.RUNTIMES
    engine.runtimes.RUNTIMES = runtimes
    try:
        yield
    finally:
        engine.runtimes.RUNTIMES = before


@contextmanager
def a_busy_core() -> Iterator[None]:
    """A process that computes without end, for as long as the block lasts."""
    burning = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        burning.kill()
        burning.wait()


class Bench:
    """Networks on real digits, and comparisons of them."""

    def __init__(self, architecture: str, folder: Path, *, seconds: float) -> None:
        self.data: Dataset = load(DigitsData(kind="digits"))
        self.architecture, self.folder, self.seconds = architecture, folder, seconds

    def network(self, architecture: str | None = None) -> nn.Module:
        torch.manual_seed(0)
        shape = {"image_size": self.data.image_size, "channels": self.data.channels}
        return build(architecture or self.architecture, classes=len(self.data.classes), **shape).eval()

    def contestant(self, name: str, *, slowed: bool = False) -> Contestant:
        network = self.network()
        network.is_slowed = slowed  # type: ignore[assignment]  # a mark of ours, not a part of the network
        save_safetensors(network, self.folder / name, metadata={})
        return Contestant(network, weights=self.folder / name)

    def compared(self, runtime: str, *, seed: int, slowed: bool = False) -> LatencyComparison:
        """The student against itself, or, slowed, in the place of the teacher."""
        spec = LatencySpec.model_validate({"runtimes": [runtime], "seconds": self.seconds, "seed": seed})
        teacher, student = self.contestant("teacher", slowed=slowed), self.contestant("student")
        report = compare(teacher, student=student, dataset=self.data, spec=spec, repeat_with="")
        if not report.comparisons:
            raise SystemExit(f"{runtime} broke off: {report.failures}")
        return report.comparisons[0]


def against_itself(bench: Bench, runtime: str, runs: int) -> Iterator[str]:
    verdicts: Counter[str] = Counter()
    worst = 0.0
    for seed in range(runs):
        told = bench.compared(runtime, seed=seed)
        verdicts[told.verdict] += 1
        worst = max(worst, abs(told.speedup.value - 1))
        say(f"{runtime}, against itself, {seed + 1} of {runs}: {told.verdict} {words(told.speedup)}")
    found = ", ".join(f"{verdict} {count}" for verdict, count in verdicts.most_common())
    yield f"| a student against itself, {runtime}, {runs} runs | {found}; farthest from 1: {worst:.1%} |"


def slowed_down(bench: Bench, runs: int) -> Iterator[str]:
    verdicts: Counter[str] = Counter()
    ratios = []
    with runtimes_are(SlowedEager()):
        for seed in range(runs):
            told = bench.compared("eager", seed=seed, slowed=True)
            verdicts[told.verdict] += 1
            ratios.append(told.speedup.value)
            say(f"slowed by 5 %, {seed + 1} of {runs}: {told.verdict} {words(told.speedup)}")
    found = ", ".join(f"{verdict} {count}" for verdict, count in verdicts.most_common())
    spread = f"median ratio {median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
    yield f"| the same student against itself slowed by 5 %, eager, {runs} runs | {found}; {spread} |"


def own_loops(bench: Bench, architecture: str) -> Iterator[str]:
    """The protocol's blocks and the libraries' own loops, on the same session and batch, interleaved."""
    torch.set_num_threads(1)
    cpu, network, images = torch.device("cpu"), bench.network(architecture), batches(bench.data, batch_size=1)[:1]
    export_onnx(network, bench.folder / "n.onnx", channels=bench.data.channels, image_size=bench.data.image_size)
    eager = Eager().load(Forms(network), device=cpu, threads=1)
    onnx = OnnxRuntime().load(Forms(network, onnx=bench.folder / "n.onnx"), device=cpu, threads=1)
    for session in (eager, onnx):
        session.feed(images)
    timer = Timer(
        "with torch.inference_mode():\n    call(images)",
        globals={"torch": torch, "call": eager._network, "images": eager._batches[0]},
    )
    run, array = onnx._session.run, onnx._arrays[0]  # type: ignore[union-attr]  # no graph from elsewhere

    def per_call() -> float:
        # One call a measurement: of more it gives the mean, which is no median.
        return median(timer.timeit(1).median for _ in range(100))

    def bare_loop() -> float:
        times = []
        for _ in range(100):
            began = time.perf_counter()
            run(["logits"], {"images": array})
            times.append(time.perf_counter() - began)
        return median(times)

    for name, session, other, own in (
        ("torch.utils.benchmark", eager, "eager", per_call),
        ("a bare loop around ONNX Runtime", onnx, "onnxruntime", bare_loop),
    ):
        ratio, p50 = _interleaved(session, own)
        told = f"{words(ratio)}, at {1000 * p50:.3g} ms"
        say(f"{architecture} in {other}: p50 of the protocol over {name}: {told}")
        yield f"| p50 of the protocol over that of {name}, {architecture} in {other} | {told} |"


def _interleaved(session: Session, own: Callable[[], float]) -> tuple[Estimated, float]:
    rng, ours, theirs = np.random.default_rng(0), [], []
    for number in range(OWN_LOOP_ROUNDS):
        for who in rng.permutation(2):
            if who:
                theirs.append(own())
            else:
                calls = interleave(
                    {"student": session.call}, plan=Plan(rounds=1, calls={"student": 100}), rng=rng,
                    clock=time.perf_counter, first_round=number,
                )  # fmt: skip
                ours += block_medians(calls, "student")
    return intervals.ratio(ours, theirs, rng=rng), median(ours)


def busy_core(bench: Bench, runs: int) -> Iterator[str]:
    flagged = {False: 0, True: 0}
    for seed in range(runs):
        flagged[False] += _is_flagged(bench.compared("eager", seed=seed))
        with a_busy_core():
            flagged[True] += _is_flagged(bench.compared("eager", seed=seed))
        say(f"busy core, {seed + 1} of {runs}: flagged {flagged}")
    yield f"| flagged as a shared processor while a process burned a core | {flagged[True]} of {runs} |"
    yield f"| flagged so without it, in turn | {flagged[False]} of {runs} |"


def _is_flagged(told: LatencyComparison) -> bool:
    return any(each.kind == "shared_processor" for each in told.noise)


def words(ratio: Estimated) -> str:
    return f"{ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"


def say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20, help="of the student against itself, in each runtime")
    parser.add_argument("--other-runs", type=int, default=5, help="of each other question")
    parser.add_argument("--runtimes", nargs="+", default=["eager", "onnxruntime"])
    parser.add_argument("--architecture", default="seed_student")
    parser.add_argument("--larger", default="seed_teacher", help="for the third question, besides")
    parser.add_argument("--seconds", type=float, default=30.0, help="time for each comparison")
    parser.add_argument("--markdown", type=Path, help="write the table there")
    given = parser.parse_args()
    load = load_average()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(given.architecture, Path(folder), seconds=given.seconds)
        rows = [*own_loops(bench, given.larger), *own_loops(bench, given.architecture)]
        for runtime in given.runtimes:
            rows += against_itself(bench, runtime, given.runs)
        rows += [*slowed_down(bench, given.other_runs), *busy_core(bench, given.other_runs)]
    page = "\n".join(
        [
            "# Whether the latency protocol deserves to be believed, as measured",
            "",
            f"Written by `python -m benchmarks.latency_trust {' '.join(sys.argv[1:])}`.",
            f"Machine: {cpu_model()}, {os.cpu_count()} cores; load at the start {load}, at the end {load_average()}. "
            f"Python {sys.version.split()[0]}, torch {torch.__version__}. {time.strftime('%Y-%m-%d')}.",
            f"{given.architecture} on digits, batch 1, one thread, {given.seconds:g} s for each comparison. "
            "Ratios with 95 % intervals.",
            "",
            "| question | answer |",
            "|---|---|",
            *rows,
            "",
        ]
    )
    sys.stdout.write(page)
    if given.markdown:
        given.markdown.write_text(page)


if __name__ == "__main__":
    main()
