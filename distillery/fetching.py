"""Download artifacts with a bar for each on the console."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from distillery.client import Client


def fetch(client: Client, job_id: str, names: Sequence[str], *, to: Path, console: Console) -> list[Path]:
    """Bring the named artifacts into the folder `to`, made when it is missing; where they lie now.

    Raises:
        CorruptFile: one does not have the sha256 that the service states.
        NotFound: the job has no artifact of that name.
    """
    to.mkdir(parents=True, exist_ok=True)
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        paths = []
        for name in names:
            task = bars.add_task(name, total=None)

            def moved(here: int, whole: int, task: object = task) -> None:
                bars.update(task, completed=here, total=whole)  # type: ignore[arg-type]  # bound early on purpose

            paths.append(client.download(job_id, name, to=to, on_progress=moved))
    return paths
