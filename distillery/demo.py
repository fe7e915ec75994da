"""`distillery demo`: one real job on this machine from start to end, the way a user would take it.

It starts its own service with `distillery up`, talks to it over REST with the client, brings the student and the
report home, verifies them, and stops the service.
"""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from distillery.client import Client
from distillery.errors import CorruptFile, InvalidRequest, JobEndedBadly, Unavailable
from distillery.fetching import fetch
from distillery.report import Report
from distillery.supervisor import tie_to_this_process
from distillery.tables import print_report, seconds
from distillery.watching import watch

BROUGHT = ("student.safetensors", "report.html", "report.json")
_STOP_SECONDS = 60.0

DIGITS: dict[str, Any] = {
    "name": "demo-digits",
    "dataset": {"name": "digits", "image_size": 8},
    "teacher": {
        "architecture": "seed_teacher",
        "train": {"epochs": 6, "optimizer": {"name": "adamw", "lr": 1e-3}},
    },
    "student": {"architecture": "seed_student"},
    "method": {
        "objective": [
            {"term": "cross_entropy", "weight": 0.1},
            {"term": "soft_targets", "weight": 0.9, "temperature": 4.0},
        ]
    },
    "training": {
        "epochs": 10,
        "batch_size": 64,
        "optimizer": {"name": "adamw", "lr": 2e-3},
        "schedule": {"name": "cosine", "warmup_epochs": 0.5},
        "seed": 0,
    },
    "latency": {"batch_sizes": [1], "runtimes": ["eager", "onnxruntime"]},
}
"""The 1,797 handwritten digits of scikit-learn: under three minutes on two cores."""

FOLDER: dict[str, Any] = {
    "name": "demo-folder",
    "teacher": {"architecture": "resnet20", "train": {"epochs": 4}},
    "student": {"architecture": "resnet8"},
    "method": DIGITS["method"],
    "training": DIGITS["training"] | {"epochs": 4, "batch_size": 128},
    "latency": DIGITS["latency"],
}
"""What a folder given with --data is learned with; `dataset` is filled in from what lies there."""


@dataclass(frozen=True)
class Result:
    """What the demo brought."""

    job: str
    seconds: float
    """Wall time from the submission to the verified files."""
    files: dict[str, str]
    """sha256 of each file, by where it lies now."""
    report: Report


def spec_for(data: Path | None) -> dict[str, Any]:
    """The job that the demo runs on `data`, or on the digits.

    Raises:
        InvalidRequest: what lies there is none of the kinds of data that the demo knows.
    """
    if data is None:
        return DIGITS
    return FOLDER | {"name": f"demo-{data.resolve().name}", "dataset": _dataset(data.resolve())}


def _dataset(path: Path) -> dict[str, Any]:
    if path.is_dir() and any(path.glob("*-idx3-ubyte*")):
        return {"kind": "idx", "path": str(path), "limit": 12_000}
    if path.is_file() and path.suffix == ".npz":
        return {"kind": "npz", "path": str(path)}
    if path.is_dir() and any(child.is_dir() for child in path.iterdir()):
        return {"kind": "image_folder", "path": str(path), "image_size": 32}
    if not path.exists():
        raise InvalidRequest(f"There is nothing at {path}.", hint="Give --data a folder or an .npz file.")
    raise InvalidRequest(
        f"{path} holds no images that the demo knows.",
        hint="Known: idx files of the MNIST family, a folder with one sub-folder per class, an .npz file.",
    )


def run(spec: Mapping[str, Any], *, out: Path, keep: bool, server: str | None, console: Console) -> Result:
    """Run the job and bring its files into `out`; with a `server`, on that one.

    Raises:
        JobEndedBadly: the job did not succeed.
        CorruptFile: a file is not what the service states.
        Unavailable: the service did not start, or went away.
    """
    out.mkdir(parents=True, exist_ok=True)
    service = _service(out / "service", keep=keep) if server is None else contextlib.nullcontext(server)
    with service as url, Client(url, api_key=os.environ.get("DISTILLERY_API_KEY") or None) as client:
        began = time.monotonic()
        console.print(f"Submitting '{spec['name']}' to {url}", highlight=False)
        job = watch(client, client.submit(spec).id, console=console)
        if job.status != "succeeded":
            why = job.error.detail if job.error else job.status_reason
            raise JobEndedBadly(f"The demo's job {job.status}: {why}", hint=job.error.hint if job.error else "")
        fetch(client, job.id, BROUGHT, to=out, console=console)
        files = _verified(client, job.id, out=out)
        return Result(job.id, time.monotonic() - began, files, client.report(job.id))


def show(result: Result, *, console: Console) -> None:
    """The table of teacher, student and student alone, and where the student lies."""
    print_report(result.report, console=console)
    for path, sha256 in result.files.items():
        console.print(f"{path}  sha256 {sha256}", highlight=False, soft_wrap=True)
    student = next(path for path in result.files if path.endswith("student.safetensors"))
    console.print(f"The student lies at {student}. The demo took {seconds(result.seconds)}.", highlight=False)


def as_json(result: Result) -> dict[str, Any]:
    """The result as plain data."""
    return asdict(result) | {"report": result.report.model_dump(mode="json")}


def _verified(client: Client, job_id: str, *, out: Path) -> dict[str, str]:
    """Read every file once more from the disk: what counts is what lies there now."""
    stated = {artifact.name: artifact.sha256 for artifact in client.artifacts(job_id)}
    files = {}
    for name in BROUGHT:
        with (out / name).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != stated[name]:
            raise CorruptFile(f"{out / name} has sha256 {found}, but the service states {stated[name]}.")
        files[str(out / name)] = found
    return files


@contextlib.contextmanager
def _service(home: Path, *, keep: bool) -> Iterator[str]:
    """`distillery up` on a free port, with a home of its own, for as long as the block lasts; gives its URL."""
    command = [sys.executable, "-m", "distillery", "up", "--home", str(home), "--port", "0", "--json"]
    # The demo is to work beside a real service, whatever the environment says about that one.
    addresses = ("DISTILLERY_DATABASE_URL", "DISTILLERY_REDIS_URL", "DISTILLERY_ARTIFACTS", "DISTILLERY_WORK_DIR")
    environment = {name: value for name, value in os.environ.items() if name not in addresses}
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    log = home / "up.log"
    with (
        log.open("wb") as errors,
        subprocess.Popen(  # noqa: S603  (our own command, no shell)
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,  # Ctrl-C is for us; we then stop the service ourselves
            preexec_fn=tie_to_this_process(),
        ) as process,
    ):
        try:
            yield _url_of(process, log=log)
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=_STOP_SECONDS)
            process.kill()
    if not keep:  # after an error it stays, with its logs
        shutil.rmtree(home)


def _url_of(process: "subprocess.Popen[bytes]", *, log: Path) -> str:
    """The address, from the one line that the service prints when it is ready.

    Raises:
        Unavailable: it ended before that.
    """
    if process.stdout is None:
        raise AssertionError("The service was started with a pipe.")
    told = process.stdout.readline()
    if not told:
        raise Unavailable(f"The demo's service did not start. {log.read_text(encoding='utf-8').strip()}")
    return str(json.loads(told)["url"])
