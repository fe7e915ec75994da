"""One student under every objective and every strategy, several seeds each: a table and a plot of who helped.

    python benchmarks/objectives.py --data ../shared/data/fashion-mnist --out objectives-study

trains a small student in every configuration (labels alone, each preset, combinations, two teachers with each merge,
an assistant, online, self-distillation, data-free) and writes OUT/objectives.md and OUT/objectives.svg. It prints a
line for each trained network with what is left. About half an hour on two cores; `--full` takes the whole data set and
more epochs, for a GPU. `--data digits` is a quick look.

    python benchmarks/objectives.py --recipe cifar100 --pair resnet56-resnet20 --data FOLDER --out cifar100-study

trains a pair by the published recipe (240 epochs; hours on a GPU) and prints ours beside the published accuracy.

Every finished network is a line of OUT/runs.jsonl, and is not trained again when the command is given anew with the
same options. So a study can be interrupted, or run in steps with `--only kd,dkd` and `--max-seconds 600`.
"""

import argparse
import dataclasses
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

# Before torch starts its threads: those that wait must not take the core from another process.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import objectives_report
from objectives_data import data_spec
from objectives_plan import BASELINE, PUBLISHED_EPOCHS, Plan, Task, configurations, step_schedule, tasks
from objectives_train import data_of, leave_with_parent, trained, weights_file

from distillery.spec.training import CosineSchedule, Sgd, Training
from engine.data.dataset import Dataset
from engine.precision import resolve_device, resolve_precision
from models import catalog


@dataclasses.dataclass(frozen=True)
class Size:
    """How much of the data is used, and for how long. None is all of it."""

    labelled: int | None
    """Images that the students learn from."""
    teacher_images: int | None
    epochs: int
    teacher_epochs: int
    validation: float
    """Share of the training images."""
    data_free_steps: int
    crd_negatives: int
    batch_size: int = 64


SIZES = {
    "digits": Size(200, None, 60, 40, validation=0.1, data_free_steps=240, crd_negatives=128, batch_size=32),
    "small": Size(1_000, 20_000, 24, 12, validation=1 / 120, data_free_steps=400, crd_negatives=1_024, batch_size=32),
    "full": Size(None, None, 60, 60, validation=1 / 12, data_free_steps=20_000, crd_negatives=16_384),
    # The loop validates on something: an image or two of each class, by which nothing is chosen here.
    "published": Size(
        None, None, PUBLISHED_EPOCHS, PUBLISHED_EPOCHS, validation=0.0005, data_free_steps=0, crd_negatives=16_384
    ),
}
PROCESSOR_TIMES = {
    BASELINE: 1.0,
    "reviewkd": 4.7,
    "reviewkd+kd": 4.7,
    "online_mutual": 2.9,
    "online_one_way": 2.9,
    "self_distillation": 2.1,
    "data_free_dafl": 7.7,
    "data_free_fast": 10.0,
}
"""Of a run, as multiples of the baseline's, as measured once; only for the guess of how long a study takes."""
USUAL_TIME = 1.7
"""Of all others."""
BASELINE_IMAGES_PER_SECOND = 1_500
"""On one core that computes bf16, validation and scoring included; only for the guess at the start."""
LARGER_IS_FASTER = 0.65
"""Time of a teacher's multiply-add as a share of the student's."""


def plan_of(options: argparse.Namespace, *, out: Path) -> Plan:
    """The setting that the options describe."""
    size = size_of(options)
    published = options.recipe != "small"
    teacher, student = pair_of(options.pair)
    device = resolve_device(options.device)
    training = Training(
        epochs=size.epochs,
        batch_size=size.batch_size,
        optimizer=Sgd(lr=0.05, momentum=0.9, weight_decay=5e-4),
        schedule=step_schedule() if published else CosineSchedule(),
        precision=resolve_precision(options.precision, device),
        device="cuda" if device.type == "cuda" else "cpu",
        threads=1 if device.type == "cpu" else None,
        seed=0,
    )
    augment = ("crop",) if options.data == "digits" else ("crop", "flip")
    data, teacher_data = (
        data_spec(options.data, cache=out, validation=size.validation, augment=augment, limit=limit)
        for limit in (size.labelled, size.teacher_images)
    )
    return Plan(
        recipe=options.recipe,
        data=data,
        teacher_data=teacher_data,
        student=student,
        teacher=teacher,
        second="" if published else "wrn16-1",
        assistant="" if published else "resnet14",
        training=training,
        teacher_epochs=size.teacher_epochs,
        seeds=options.seeds,
        crd_negatives=size.crd_negatives,
        data_free_steps=size.data_free_steps,
    )


def size_of(options: argparse.Namespace) -> Size:
    """The size of the setting, with what the options change in it."""
    name = "digits" if options.data == "digits" else "full" if options.full else "small"
    published = options.recipe != "small"
    size = SIZES["published" if published else name]
    changed = {
        "labelled": options.limit,
        "teacher_images": options.teacher_images or (options.limit if published else None),
        "epochs": options.epochs,
        "teacher_epochs": options.teacher_epochs or (options.epochs if published else None),
        "data_free_steps": options.data_free_steps,
        "batch_size": options.batch_size,
    }
    return dataclasses.replace(size, **{name: value for name, value in changed.items() if value is not None})


def pair_of(text: str) -> tuple[str, str]:
    """Teacher and student of `<teacher>-<student>`; the names themselves may hold hyphens."""
    known = {row.name for row in catalog.ROWS}
    parts = text.split("-")
    for place in range(1, len(parts)):
        teacher, student = "-".join(parts[:place]), "-".join(parts[place:])
        if teacher in known and student in known:
            return teacher, student
    raise SystemExit(f"'{text}' is no pair of known networks; expected one such as resnet56-resnet20.")


class Ledger:
    """The finished runs: a file of JSON lines that only grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.lines: dict[str, dict[str, Any]] = {}
        for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
            try:
                line = json.loads(text)
            except json.JSONDecodeError:  # the writer was killed in the middle of it
                continue
            self.lines[line["key"]] = line

    def add(self, line: dict[str, Any]) -> None:
        """Written and synced before anything else happens."""
        line = {**line, "finished": datetime.now(UTC).isoformat(timespec="seconds")}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.lines[line["key"]] = line


class Study:
    """Which networks are trained, which can be, and how long the rest will take."""

    def __init__(self, every: Sequence[Task], *, only: Sequence[str], ledger: Ledger, out: Path) -> None:
        self.every, self.ledger, self.out = every, ledger, out
        self.teachers = {task.configuration: task for task in every if task.teaches}
        self.waiting = [task for task in self._wanted(only) if not self._done(task)]
        self._spent, self._paid = 0.0, 0.0

    def _wanted(self, only: Sequence[str]) -> list[Task]:
        """The configurations asked for, behind those that they learn from."""
        chosen = [task for task in self.every if not only or task.configuration in only]
        needed = {name for task in chosen for name in task.needs}
        needed |= {name for needing in needed for name in self.teachers[needing].needs}
        return [task for task in self.every if task in chosen or task.configuration in needed]

    def _done(self, task: Task) -> bool:
        line = self.ledger.lines.get(task.key)
        return line is not None and (not task.teaches or line["failed"] is not None or self.file(task).is_file())

    def file(self, task: Task) -> Path:
        """Of its weights, where others learn from it."""
        return weights_file(self.out, task.configuration, task.key)

    def files(self, task: Task) -> dict[str, Path]:
        """The weights of those who teach a task."""
        return {name: self.file(self.teachers[name]) for name in task.needs}

    def next(self) -> Task | None:
        """The first task whose teachers are all trained, taken from the list."""
        for task in self.waiting:
            if all(file.is_file() for file in self.files(task).values()):
                self.waiting.remove(task)
                return task
        return None

    def keep(self, task: Task, line: dict[str, Any]) -> None:
        """Write down a finished run."""
        self.ledger.add(line)
        self._spent, self._paid = self._spent + line["seconds"], self._paid + units(task, self.every)

    def seconds_left(self, running: Sequence[Task], *, workers: int) -> float:
        """A guess, from what the runs so far have taken."""
        baseline = next(task for task in self.every if task.configuration == BASELINE)
        rate = self._spent / self._paid if self._paid else images(baseline) / BASELINE_IMAGES_PER_SECOND
        return rate * sum(units(task, self.every) for task in (*self.waiting, *running)) / workers


def images(task: Task) -> int:
    """Images that a run learns from, all epochs together."""
    return task.spec.training.epochs * len(data_of(task.spec.dataset).train)


def units(task: Task, every: Sequence[Task]) -> float:
    """The time of a run as a multiple of the baseline's, roughly."""
    if not task.teaches:
        return PROCESSOR_TIMES.get(task.configuration, USUAL_TIME)
    baseline = next(each for each in every if each.configuration == BASELINE)
    macs = [catalog.find(each.learner).macs for each in (task, baseline)]
    return images(task) / images(baseline) * macs[0] / macs[1] * LARGER_IS_FASTER


@contextmanager
def processes(count: int) -> Iterator[ProcessPoolExecutor]:
    """Worker processes, started afresh, that end with this one."""
    with ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=leave_with_parent) as pool:
        yield pool


def carry_out(study: Study, *, workers: int, until: float) -> None:
    """Train what is waiting, `workers` networks at a time; start none after the time `until`."""
    running: dict[Future[dict[str, Any]], Task] = {}
    with processes(workers) as pool:
        while True:
            while len(running) < workers and time.monotonic() < until and (task := study.next()):
                running[pool.submit(trained, task, folder=study.out, teachers=study.files(task))] = task
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                task = running.pop(future)
                study.keep(task, future.result())
                left = study.seconds_left(list(running.values()), workers=workers)
                print(f"{told(future.result())}; about {left / 60:.0f} min left", flush=True)


def told(line: Mapping[str, Any]) -> str:
    """A finished run in a line."""
    name = f"{line['configuration']:22} seed {line['seed']}"
    if line["failed"]:
        return f"{name}: {line['failed']}"
    return (
        f"{name}: test {100 * line['best']:.2f} % (last epoch {100 * line['last']:.2f} %) in {line['seconds']:.0f} s, "
        f"{line['images_per_second']:.0f} images/s"
    )


def write(plan: Plan, study: Study, *, datasets: Mapping[str, Dataset], command: str) -> None:
    """The table and the plot, of all that is finished."""
    lines = study.ledger.lines
    found = objectives_report.rows(plan, study.every, lines)
    plot, page = study.out / "objectives.svg", study.out / "objectives.md"
    plot.write_text(objectives_report.picture(plan, found), encoding="utf-8")
    text = objectives_report.markdown(plan, study.every, lines, datasets=datasets, command=command, plot=plot.name)
    page.write_text(text, encoding="utf-8")
    print(text)
    print(f"Written: {page} and {plot}")


def options_of(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a folder of idx files, 'digits', or CIFAR's files")
    parser.add_argument("--out", type=Path, required=True, help="folder for runs.jsonl, table, plot and weights")
    parser.add_argument("--recipe", choices=("small", "cifar10", "cifar100"), default="small")
    parser.add_argument("--pair", default="resnet20-resnet8", help="<teacher>-<student>")
    parser.add_argument("--full", action="store_true", help="all images and more epochs, for a GPU")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="configurations, with commas; those they need come along")
    parser.add_argument("--max-seconds", type=float, default=float("inf"), help="start no network after that time")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument("--workers", type=int, help="networks at a time; on the CPU one for each core")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--teacher-epochs", type=int)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--limit", type=int, help="labelled images for the students")
    parser.add_argument("--teacher-images", type=int)
    parser.add_argument("--data-free-steps", type=int)
    return parser.parse_args(arguments)


def chosen(options: argparse.Namespace, plan: Plan) -> list[str]:
    """The configurations named by `--only`."""
    names = [name for name in options.only.split(",") if name]
    known = configurations(plan)
    if strange := [name for name in names if name not in known]:
        raise SystemExit(f"No configuration is called {', '.join(strange)}. There are {', '.join(known)}.")
    return names


def command_of(options: argparse.Namespace) -> str:
    """What to type for the same again; of the folders only the names."""
    words = ["python benchmarks/objectives.py", "--data", Path(options.data).name, "--out", options.out.name]
    for name, value in vars(options).items():
        if name not in ("data", "out", "only", "max_seconds", "workers") and value != options_default(name):
            words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return " ".join(words)


def options_default(name: str) -> Any:
    """The value of an option that was not given."""
    return getattr(options_of(["--data", "", "--out", ""]), name)


def main() -> None:
    """Read the options, train what is missing, write table and plot."""
    options = options_of()
    options.out.mkdir(parents=True, exist_ok=True)
    plan = plan_of(options, out=options.out)
    datasets = {"students": data_of(plan.data), "teachers": data_of(plan.teacher_data)}
    classes = len(datasets["students"].classes)
    if plan.recipe == "cifar100" and classes != 100:
        raise SystemExit(f"The recipe cifar100 is for 100 classes; {options.data} has {classes}.")
    teachers = datasets["teachers"]
    facts = {name: each.sha256 for name, each in datasets.items()}
    every = tasks(plan, facts=facts, mean=teachers.mean, std=teachers.std)
    study = Study(every, only=chosen(options, plan), ledger=Ledger(options.out / "runs.jsonl"), out=options.out)
    workers = options.workers or (1 if plan.training.device == "cuda" else os.cpu_count() or 1)
    left = study.seconds_left((), workers=workers)
    print(f"{len(study.waiting)} networks to train, {workers} at a time: perhaps {left / 60:.0f} minutes", flush=True)
    if study.waiting:
        carry_out(study, workers=workers, until=time.monotonic() + options.max_seconds)
    write(plan, study, datasets=datasets, command=command_of(options))


if __name__ == "__main__":
    main()
