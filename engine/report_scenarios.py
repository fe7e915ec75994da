"""Batch sweeps and servers, made ready for the page: one panel for each runtime, device and input."""

from collections.abc import Sequence
from dataclasses import dataclass

from distillery.report import Input, LatencyReport, ServerResult, Sweep
from engine import plots
from engine.figures import axis_seconds

INPUTS: dict[Input, str] = {"model": "network alone", "end_to_end": "from encoded bytes"}


@dataclass(frozen=True)
class Panel:
    """The sweeps and servers of one runtime, device and input. Plots are empty where there is nothing to draw."""

    title: str
    sweeps: tuple[Sweep, ...]
    servers: tuple[ServerResult, ...]
    sweep_plot: str
    server_plot: str
    objective_seconds: float | None

    @property
    def notes(self) -> list[str]:
        """What is to be said of each, with the name of its network, and once what holds for several."""
        told: dict[str, list[str]] = {}
        measured: tuple[Sweep | ServerResult, ...] = (*self.sweeps, *self.servers)
        for each in measured:
            for note in each.notes:
                told.setdefault(note, []).append(each.model)
        return [f"{' and '.join(dict.fromkeys(models))}: {note}" for note, models in told.items()]


def panels(latency: LatencyReport | None) -> list[Panel]:
    """In the order in which they were measured; none where only single streams were."""
    if latency is None:
        return []
    measured: tuple[Sweep | ServerResult, ...] = (*latency.sweeps, *latency.servers)
    places = dict.fromkeys((each.runtime, each.device, each.input) for each in measured)
    return [_panel(latency, runtime, device, given) for runtime, device, given in places]


def _panel(latency: LatencyReport, runtime: str, device: str, given: Input) -> Panel:
    place = (runtime, device, given)
    sweeps = tuple(each for each in latency.sweeps if (each.runtime, each.device, each.input) == place)
    servers = tuple(each for each in latency.servers if (each.runtime, each.device, each.input) == place)
    return Panel(
        title=f"{runtime} on {device}, {INPUTS[given]}",
        sweeps=sweeps,
        servers=servers,
        sweep_plot=sweep_plot(sweeps),
        server_plot=server_plot(servers),
        objective_seconds=servers[0].objective_seconds if servers else None,
    )


def sweep_plot(sweeps: Sequence[Sweep]) -> str:
    """Images per second against batch size."""
    series = [
        plots.Series(
            sweep.model,
            tuple(
                (
                    point.batch_size,
                    point.images_per_second.value,
                    point.images_per_second.low,
                    point.images_per_second.high,
                )
                for point in sweep.points
            ),
        )
        for sweep in sweeps
    ]
    return plots.measured(
        series, title="Throughput by batch size", x_label="Batch size (logarithmic)",
        y_label="Images per second (logarithmic)", x_text=lambda value: f"{value:,g}",
        y_text=lambda value: f"{value:,g}",
        x_ticks=sorted({point.batch_size for sweep in sweeps for point in sweep.points}),
    )  # fmt: skip


def server_plot(servers: Sequence[ServerResult]) -> str:
    """The 99th percentile of the latency against the rate; rates that were given up have none."""
    series = [
        plots.Series(
            server.model,
            tuple(
                (rate.requests_per_second, rate.p99.seconds, rate.p99.low, rate.p99.high)
                for rate in server.rates
                if rate.p99.seconds is not None
            ),
        )
        for server in servers
    ]
    return plots.measured(
        series, title="Latency by rate of requests", x_label="Requests per second (logarithmic)",
        y_label="p99 of the latency (logarithmic)", x_text=lambda value: f"{value:,g}", y_text=axis_seconds,
        reference=servers[0].objective_seconds if servers else None,
    )  # fmt: skip
