"""`distillery up`: the whole service on this machine with one command, its processes kept alive by this one.

What runs are the same commands as on a server; this module imports neither of them. All data lies below one home
folder, of which only one such process may be in charge at a time.
"""

import fcntl
import http.client
import importlib.util
import ipaddress
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from distillery.errors import InvalidRequest, MissingDependency, Unavailable, WrongState
from distillery.supervisor import Child, Supervisor, supervisor

READY_SECONDS = 180.0
API_GRACE_SECONDS = 10.0
INFERENCE_GRACE_SECONDS = 15.0
WORKER_MARGIN_SECONDS = 15.0
"""Beyond the trainer's save budget: the supervisor of the trainer stores what was saved and lets go of the job."""
_SAVE_BUDGET_SECONDS = 20.0
_LOOK_SECONDS = 0.1
_START_TRIES = 1
_ROOT = Path(__file__).resolve().parents[1]
_SERVICE_NEEDS = ("alembic", "fastapi", "obstore", "sqlalchemy", "uvicorn")
_WORKER_NEEDS = ("numpy", "onnxruntime", "safetensors", "torch", "torchvision")


@dataclass(frozen=True)
class Setup:
    """What to run and where its data lies."""

    home: Path
    host: str = "127.0.0.1"
    port: int = 8000
    """0 takes a free one."""
    database_url: str | None = None
    redis_url: str | None = None
    artifacts: str | None = None
    data: Path | None = None
    """Folder below which a job's `dataset: {name: ...}` is looked for."""
    workers: int = 1

    @property
    def database(self) -> str:
        """URL of the database: a SQLite file in the home folder unless another one was given."""
        return self.database_url or f"sqlite:///{self.home / 'distillery.db'}"


def default_home() -> Path:
    """`$DISTILLERY_HOME`, or `.distillery` in the user's home."""
    given = os.environ.get("DISTILLERY_HOME")
    return Path(given).expanduser() if given else Path.home() / ".distillery"


def run(setup: Setup, *, on_ready: Callable[[str], None], say: Callable[[str], None]) -> None:
    """Start everything, call `on_ready` with the URL, and return after a stop signal, when all is stopped.

    Raises:
        MissingDependency: the service or the worker is not installed.
        InvalidRequest: the address is open to others without a key, or the port is taken.
        WrongState: another process is in charge of this home.
        Unavailable: the service did not become ready.
    """
    _check_installed(setup)
    _check_exposure(setup)
    setup.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    port = _free_port(setup)
    url = f"http://{_bracketed(_reachable(setup.host))}:{port}"
    with _in_charge(setup.home, url=url):
        environment = child_environment(setup, given=os.environ)
        with supervisor(say=say) as held:
            api = _api(setup, port=port, environment=environment)
            held.start(api)  # it loads for longer than a migration takes, and is not ready before the tables are
            _migrate(environment)
            for number in range(1, setup.workers + 1):
                held.start(_worker(setup, number=number, environment=environment))
            if _wait_until_ready(held, api, port=port, host=_reachable(setup.host)):
                on_ready(url)
                if setup.workers:  # after the others, whose start it would slow down
                    held.start(_inference(setup, environment=environment))
                held.until(lambda: False, every_seconds=3600.0)
            say("Stopping. A running job is saved first; a second Ctrl-C stops at once.")


def child_environment(setup: Setup, *, given: Mapping[str, str]) -> dict[str, str]:
    """What API and worker are told: where everything lies, and to import our packages and not those of the folder."""
    addresses = {
        "DISTILLERY_DATABASE_URL": setup.database,
        "DISTILLERY_ARTIFACTS": setup.artifacts or str(setup.home / "artifacts"),
        "DISTILLERY_WORK_DIR": given.get("DISTILLERY_WORK_DIR") or str(setup.home / "work"),
        "PYTHONSAFEPATH": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(_ROOT), given.get("PYTHONPATH", "")])),
        "PYTHONUNBUFFERED": "1",
    }
    addresses |= {"DISTILLERY_REDIS_URL": setup.redis_url} if setup.redis_url else {}
    addresses |= {"DISTILLERY_DATA": str(setup.data.resolve())} if setup.data else {}
    kept = {name: value for name, value in given.items() if name != "DISTILLERY_REDIS_URL"}
    return kept | addresses


def _check_installed(setup: Setup) -> None:
    needs = {"service": _SERVICE_NEEDS} | ({"worker": _WORKER_NEEDS} if setup.workers else {})
    for extra, packages in needs.items():
        missing = [package for package in packages if importlib.util.find_spec(package) is None]
        if missing:
            without = " (or run only the API with --no-worker)" if extra == "worker" else ""
            raise MissingDependency(
                f"The {extra} is not installed here: {', '.join(missing)} cannot be found.",
                hint=f'Install it with: pip install "distillery[{extra}]"{without}.',
            )


def _check_exposure(setup: Setup) -> None:
    if not _is_loopback(setup.host) and not os.environ.get("DISTILLERY_API_KEY"):
        raise InvalidRequest(
            f"--host {setup.host} opens the service to other machines, and no key guards it.",
            hint="Set DISTILLERY_API_KEY to a long random text for the service and its users, or use 127.0.0.1.",
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _reachable(host: str) -> str:
    """Where this machine reaches a service that listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  (compared, not bound)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _free_port(setup: Setup) -> int:
    """The port to listen on, tried out beforehand: the API's own refusal would only stand in its log."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(setup.host, setup.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            return int(listener.getsockname()[1])
    except OSError as error:
        raise InvalidRequest(
            f"The service cannot listen on {setup.host}:{setup.port}: {error.strerror or error}.",
            hint="Choose another --port (0 takes a free one), or stop what is listening there.",
        ) from None


@contextmanager
def _in_charge(home: Path, *, url: str) -> Iterator[None]:
    """Hold the home's lock, which the kernel lets go of however this process ends."""
    with (home / "lock").open("a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WrongState(
                f"Another distillery is in charge of {home}: {_holder(home)}.",
                hint="Use that one, stop it, or choose another --home.",
            ) from None
        lock.truncate(0)
        lock.write(json.dumps({"pid": os.getpid(), "url": url}))
        lock.flush()
        yield
        lock.truncate(0)


def _holder(home: Path) -> str:
    try:
        told = json.loads((home / "lock").read_text(encoding="utf-8"))
        return f"process {told['pid']} at {told['url']}"
    except (ValueError, KeyError):
        return "it is just starting"


def _python(*arguments: str) -> list[str]:
    return [sys.executable, "-m", *arguments]


def _migrate(environment: Mapping[str, str]) -> None:
    done = subprocess.run(  # noqa: S603  (our own command, no shell)
        _python("store.migrate"), env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = (done.stderr.strip() or f"code {done.returncode}").splitlines()
        raise Unavailable(f"The database could not be made ready: {' '.join(lines[-3:])}")


def _api(setup: Setup, *, port: int, environment: Mapping[str, str]) -> Child:
    command = _python("app.serve", "--host", setup.host, "--port", str(port))
    return Child("The API", command, environment, setup.home / "logs" / "api.log", API_GRACE_SECONDS)


def _worker(setup: Setup, *, number: int, environment: Mapping[str, str]) -> Child:
    command = _python("worker.serve" if setup.redis_url else "worker.embedded")
    log = setup.home / "logs" / f"worker-{number}.log"
    given = environment.get("DISTILLERY_SAVE_BUDGET_SECONDS", "").strip()
    budget = float(given) if given.replace(".", "", 1).isdigit() else _SAVE_BUDGET_SECONDS
    return Child(f"Worker {number}", command, environment, log, budget + WORKER_MARGIN_SECONDS)


def _inference(setup: Setup, *, environment: Mapping[str, str]) -> Child:
    """Light until somebody asks for a prediction: torch is loaded with the first network."""
    log = setup.home / "logs" / "inference.log"
    return Child("The inference worker", _python("worker.inference"), environment, log, INFERENCE_GRACE_SECONDS)


def _wait_until_ready(held: Supervisor, api: Child, *, host: str, port: int) -> bool:
    """Whether the API answers that it can serve; False after a stop signal.

    Raises:
        Unavailable: it keeps dying, or takes too long; with the end of its log.
    """
    deadline = api.clock() + READY_SECONDS

    def answers() -> bool:
        if api.failures > _START_TRIES or api.clock() > deadline:
            what = "keeps dying" if api.failures > _START_TRIES else f"is not ready after {READY_SECONDS:.0f} s"
            raise Unavailable(f"The API {what}. The end of {api.log}:\n{api.tail()}")
        return _ready(host, port)

    return held.until(answers, every_seconds=_LOOK_SECONDS)


def _ready(host: str, port: int) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=5.0)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
