"""Reports made up for the tests of their page, and what is read off a page."""

import re
from html.parser import HTMLParser

from distillery.report import (
    Curve,
    Disagreement,
    Estimated,
    Input,
    LatencyComparison,
    LatencyReport,
    LatencyRow,
    Percentile,
    Quality,
    Report,
    ServedRate,
    ServerResult,
    Stages,
    Sweep,
    SweepPoint,
    Verdict,
)

HOSTILE = "<script>alert('x')</script>\"><img src=https://example.org/x.png onerror=alert(1)>"
CSP = (
    '<meta http-equiv="Content-Security-Policy" '
    "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">"
)
PIXEL = "data:image/png;base64,iVBORw0KGgo="


def quality_of(role: str, top1: float, *, classes: tuple[str, ...]) -> Quality:
    return Quality(
        role=role, architecture="seed_student", images=360,
        top1=Estimated(value=top1, low=top1 - 0.02, high=top1 + 0.02),
        top5=None, ece=0.01, loss=0.2, agreement=None if role == "teacher" else 0.97,
        kl_to_teacher=None if role == "teacher" else 0.05,
        per_class={name: top1 - 0.01 * place for place, name in enumerate(classes)},
        parameters=620_362, macs=1_000_000, file_bytes=2_500_000, train_seconds=61.0, images_per_second=1234.5,
        best_epoch=3, best_validation=0.96, last_validation=0.95, last_top1=0.95,
    )  # fmt: skip


def report_of(
    *, name: str = "digits", classes: tuple[str, ...] = ("zero", "one"), thumbnail: str = PIXEL, curves: bool = True
) -> Report:
    drawn = (
        Curve(key="teaching/validation/accuracy", steps=(10, 20), values=(0.5, 0.9)),
        Curve(key="training/validation/accuracy", steps=(10, 20, 30), values=(0.4, None, 0.95)),
        Curve(key="training/loss", steps=(10, 20, 30), values=(2.0, None, None)),
    )
    return Report(
        summary=f"Distillation helped: {name}.", helped=True, gain=Estimated(value=0.02, low=0.01, high=0.03),
        gap_closed=0.5, speedup=None, warnings=(f"Beware of {name}.",),
        quality=(
            quality_of("teacher", 0.97, classes=classes), quality_of("student", 0.96, classes=classes),
            quality_of("baseline", 0.94, classes=classes),
        ),
        disagreements=(
            Disagreement(image_id=7, label=classes[0], teacher=name, student=classes[1], kl=1.5, thumbnail=thumbnail),
        ),
        curves=drawn if curves else (), latency=None, dataset={"name": name, "test_images": 360, "notes": [name]},
        environment={"cpu": name, "versions": {"torch": "2"}, "memory_bytes": 25_000_000_000},
        spec={"name": name, "labels": {"a": name}},
    )  # fmt: skip


def latency_of(*devices: str, verdict: Verdict = "faster") -> LatencyReport:
    def row(model: str, device: str, seconds: float) -> LatencyRow:
        told = Percentile(seconds=seconds, low=0.9 * seconds, high=1.1 * seconds)
        return LatencyRow(
            model=model, runtime="eager", device=device, batch_size=8, threads=1, n=270, p50=told, p90=told, p95=told,
            p99=Percentile(seconds=None, reason="270 calls; a 95 % interval for p99 needs 368."), mean_seconds=seconds,
            stdev_seconds=seconds, images_per_second=8 / seconds, parameters=1, macs=1, file_bytes=1_500_000,
            peak_memory_bytes=None, cold_start_seconds=1.5, warmup_calls=1, warmup_steady=False, accuracy=0.9,
            agreement=1.0,
        )  # fmt: skip

    return LatencyReport(
        protocol="p", environment={}, weights_sha256={"teacher": "a"}, repeat_with="repeat <this>",
        notes=("a general note",),
        comparisons=tuple(
            LatencyComparison(
                runtime="eager", device=device, batch_size=8, threads=1, rounds=30, verdict=verdict,
                speedup=Estimated(value=4.0, low=3.9, high=4.1), control=Estimated(value=1, low=0.99, high=1.01),
                rows=(row("teacher", device, 0.0123456), row("student", device, 0.003)),
                notes=("one note.", "two notes."),
            )
            for device in devices
        ),
    )  # fmt: skip


def scenarios_of(*inputs: Input) -> LatencyReport:
    """Sweeps and servers of both networks; the student's server was given up at one rate."""

    def sweep(model: str, given: Input, rate: float) -> Sweep:
        points = tuple(
            SweepPoint(
                batch_size=size, p50_seconds=0.0012345 * size,
                images_per_second=Estimated(value=rate * size**0.5, low=0.9 * rate, high=3 * rate),
            )
            for size in (1, 2, 4)
        )  # fmt: skip
        return Sweep(
            model=model, runtime="eager", device="cpu", threads=1, input=given, rounds=12, points=points,
            best_batch_size=2, stopped_by="memory", stopped="A batch of 8 does <not> fit.", notes=("a sweeping note",),
        )  # fmt: skip

    def rate(each: float, *, p99: float | None) -> ServedRate:
        told = Percentile(seconds=p99, low=p99 and 0.9 * p99, high=p99 and 1.2 * p99, reason="" if p99 else "given up")
        return ServedRate(
            requests_per_second=each, n=4321, cut_short=p99 is None, utilisation=0.5, p50=told, p95=told, p99=told,
            met=p99 is not None and p99 <= 0.02,
        )  # fmt: skip

    stages = Stages(decode_seconds=1e-4, prepare_seconds=2e-5, compute_seconds=5e-3)

    def server(model: str, given: Input, *rates: ServedRate) -> ServerResult:
        met = [each.requests_per_second for each in rates if each.met]
        return ServerResult(
            model=model, runtime="eager", device="cpu", threads=1, input=given, objective_seconds=0.02,
            service_seconds=0.005, highest_rate=max(met, default=None), lowest_missed=1234.5, rates=rates,
            stages=None if given == "model" else stages,
            notes=("a serving note",),
        )  # fmt: skip

    return LatencyReport(
        protocol="p", environment={}, weights_sha256={}, repeat_with="-", comparisons=(),
        sweeps=tuple(sweep(model, given, 100.0) for given in inputs for model in ("teacher", "student")),
        servers=tuple(
            each
            for given in inputs
            for each in (
                server("teacher", given, rate(30, p99=0.03)),
                server("student", given, rate(400, p99=0.01), rate(600, p99=0.0123456), rate(1234.5, p99=None)),
            )
        ),
    )  # fmt: skip


def curve_of(key: str, *values: float | None) -> Curve:
    return Curve(key=key, steps=tuple(10 * place for place in range(1, len(values) + 1)), values=values)


def with_roles(report: Report, *roles: str, **changes: object) -> Report:
    """The report with these networks alone."""
    quality = tuple(quality_of(role, 0.9, classes=("zero", "one")) for role in roles)
    return report.model_copy(update={"quality": quality, "disagreements": (), "gap_closed": None, **changes})


def rows_of(page: str) -> dict[str, list[str]]:
    """The cells of every table row by its first cell, without mark-up; of equal ones the last."""
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", page, flags=re.DOTALL)
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, flags=re.DOTALL) for row in rows]
    plain = [[re.sub(r"<[^>]+>", " ", cell).strip() for cell in row] for row in cells]
    return {row[0]: row[1:] for row in plain}


def drawn_in(page: str, title: str) -> list[str]:
    """The classes of the lines in a plot."""
    plot = re.search(rf'<svg [^>]*aria-label="{title}">(.*?)</svg>', page, flags=re.DOTALL)
    return [] if plot is None else re.findall(r'<path class="line (\w+)"', plot[1])


class Addresses(HTMLParser):
    """Collects elements and everything that a browser would fetch or run."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.handlers: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "srcset", "action", "data", "poster", "xlink:href"):
                self.fetched.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)
