"""Real Postgres, real Redis and real data for every test that asks for them.

Servers are taken from `TEST_DATABASE_URL` and `TEST_REDIS_URL`, else from their usual local addresses, else private
ones are started from installed binaries. The last lines of a run say what it ran against and what it could not run.
"""

import contextlib
import gc
import itertools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
UNDER_CI = bool(os.environ.get("CI"))
_MISSING_IN_CI = "is required under CI (CI is set)"
_FIRST_REDIS_DATABASE = 9
"""Each test process has one of Redis's 16 databases from here on."""
_FIRST = (
    "tests/test_readme.py",
    "tests/test_tutorials.py",
    "tests/worker/test_studies.py",
    "tests/service/test_journey.py",
    "tests/worker/test_inspect_model.py",
    "tests/distillery/test_cli_journey.py",
    "tests/benchmarks/test_inference.py",
    "tests/service/test_benchmarks.py",
    "tests/worker/test_forms.py",
)
"""The files that take longest: begun last, one of them would keep a single process busy when the others are done."""
_FIRST_PORT = 20_000 + 1_000 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw9").removeprefix("gw"))
_PORTS = itertools.cycle(range(_FIRST_PORT, _FIRST_PORT + 1_000))
_ran_against: dict[str, str] = {}
_not_run: dict[str, str] = {}


class DataRoot(Protocol):
    """Finds a folder of the shared data."""

    def __call__(self, name: str) -> Path: ...


@pytest.fixture
def data_root(request: pytest.FixtureRequest) -> DataRoot:
    """`data_root("cifar10")` is that folder of the shared data; its absence is a failure under CI."""
    root = Path(os.environ.get("DISTILLERY_DATA", REPOSITORY.parent / "shared" / "data"))

    def find(name: str) -> Path:
        folder = root / name
        if folder.is_dir():
            _ran_against["data"] = str(root)
            return folder
        reason = f"real data '{name}' is not below {root}; set DISTILLERY_DATA"
        if UNDER_CI:
            pytest.fail(f"{reason}: it {_MISSING_IN_CI}")
        _not_run[request.node.nodeid] = reason
        pytest.skip(reason)

    return find


@pytest.fixture(scope="session", autouse=True)
def own_devices(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Each test process counts as a machine: a measurement in one need not wait for a training in another."""
    os.environ["DISTILLERY_DEVICE_LOCKS"] = str(tmp_path_factory.mktemp("devices"))
    os.environ["DISTILLERY_ANSWERS"] = str(tmp_path_factory.mktemp("answers"))


@pytest.fixture(scope="module", autouse=True)
def quick_collections() -> None:
    """What earlier modules left is looked through for garbage once more and never again. Of all that torch and its
    compiler have loaded a look takes a second, and whatever measures latency asks for many.
    """
    gc.collect()
    gc.freeze()


def _accepts(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False


def free_port() -> int:
    """A TCP port of the loopback interface that nothing listens on, and that no other test process is given. It lies
    below those that the system gives to whoever asks for any, so that nobody takes it before it is used.
    """
    for port in _PORTS:
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port
    raise AssertionError("The ports go around for ever.")


@pytest.fixture(scope="session")
def postgres_server(request: pytest.FixtureRequest) -> Iterator[str]:
    """URL of a Postgres server on which databases may be created."""
    if url := os.environ.get("TEST_DATABASE_URL"):
        _ran_against["postgres"] = url.rpartition("@")[2]
        yield url
    elif _accepts("127.0.0.1", 5432):
        _ran_against["postgres"] = "127.0.0.1:5432"
        yield "postgresql://postgres@127.0.0.1:5432/postgres"
    else:
        yield from _private_postgres()


def _private_postgres() -> Iterator[str]:
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    initdb = shutil.which("initdb") or (str(binaries[-1]) if binaries else None)
    if initdb is None:
        pytest.fail("No Postgres: none at 127.0.0.1:5432, no TEST_DATABASE_URL, and no initdb is installed.")
    # initdb refuses to run as root; Debian's package brings the user postgres.
    as_user = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
    with tempfile.TemporaryDirectory(prefix="distillery-pg-") as folder:
        Path(folder).chmod(0o777)
        data, port = Path(folder) / "data", free_port()
        command = [initdb, "-D", data, "-U", "postgres", "-A", "trust", "--no-sync"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/", **as_user)
        control = [str(Path(initdb).with_name("pg_ctl")), "-D", data, "-w"]
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"
        start = [*control, "-o", options, "-l", Path(folder) / "log", "start"]
        subprocess.run(start, check=True, stdout=subprocess.DEVNULL, cwd="/", **as_user)
        _ran_against["postgres"] = f"a private one, port {port}"
        try:
            yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
        finally:
            subprocess.run([*control, "-m", "fast", "stop"], check=True, stdout=subprocess.DEVNULL, cwd="/", **as_user)


@pytest.fixture(scope="session")
def postgres_template(postgres_server: str) -> Iterator[str]:
    """Name of a database that the real migrations have made, to copy for each test."""
    from store.db import migrate

    name = f"distillery_template_{uuid.uuid4().hex[:12]}"
    with _created(postgres_server, name):
        migrate(_url_of(postgres_server, name))
        yield name


def _url_of(server: str, database: str) -> str:
    return f"{server.rpartition('/')[0]}/{database}"


@contextmanager
def _created(server: str, name: str, *, template: str = "template0") -> Iterator[str]:
    """A database for as long as the `with` block lasts; gives its URL."""
    import psycopg

    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        try:
            yield _url_of(server, name)
        finally:
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@pytest.fixture
def empty_postgres_url(postgres_server: str) -> Iterator[str]:
    """A fresh Postgres database without tables."""
    with _created(postgres_server, f"distillery_test_{uuid.uuid4().hex[:12]}") as url:
        yield url


@pytest.fixture
def postgres_url(postgres_server: str, postgres_template: str) -> Iterator[str]:
    """A fresh Postgres database, migrated."""
    with _created(postgres_server, f"distillery_test_{uuid.uuid4().hex[:12]}", template=postgres_template) as url:
        yield url


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file that the real migrations have made, to copy for each test."""
    from store.db import migrate

    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture
def sqlite_url(tmp_path: Path, sqlite_template: Path) -> str:
    """A fresh SQLite file, migrated."""
    path = tmp_path / "distillery.db"
    shutil.copy(sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A fresh, migrated database: each test that asks for it runs on SQLite and on Postgres."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a Redis server, without a database number."""
    if url := os.environ.get("TEST_REDIS_URL"):
        _ran_against["redis"] = url.rpartition("@")[2]
        yield url.rstrip("/")
    elif _accepts("127.0.0.1", 6379):
        _ran_against["redis"] = "127.0.0.1:6379"
        yield "redis://127.0.0.1:6379"
    else:
        yield from _private_redis(tmp_path_factory.mktemp("redis"))


def _private_redis(folder: Path) -> Iterator[str]:
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.fail("No Redis: none at 127.0.0.1:6379, no TEST_REDIS_URL, and no redis-server is installed.")
    import redis

    port = free_port()
    command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        retry = redis.retry.Retry(redis.backoff.ConstantBackoff(0.05), retries=100)
        with redis.Redis(port=port, retry=retry, retry_on_error=[redis.ConnectionError]) as connection:
            connection.ping()
        _ran_against["redis"] = f"a private one, port {port}"
        try:
            yield f"redis://127.0.0.1:{port}"
        finally:
            server.terminate()


@pytest.fixture
def redis_url(redis_server: str, worker_id: str) -> Iterator[str]:
    """A Redis database of the test's own, emptied before and after."""
    import redis

    url = f"{redis_server}/{_FIRST_REDIS_DATABASE + int(worker_id.removeprefix('gw') if worker_id != 'master' else 0)}"
    with redis.Redis.from_url(url) as connection:
        connection.flushdb()
        yield url
        connection.flushdb()


S3_SERVER = """
import sys
from moto.server import ThreadedMotoServer

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print("http://%s:%d" % server.get_host_and_port(), flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class Bucket:
    """An empty bucket of an S3 server, and a client that looks into it past our own code."""

    name: str
    endpoint: str
    client: Any

    def objects(self) -> dict[str, bytes]:
        """Everything in it, by key."""
        listed = self.client.list_objects_v2(Bucket=self.name).get("Contents", ())
        return {each["Key"]: self.read(each["Key"]) for each in listed}

    def read(self, key: str) -> bytes:
        body = self.client.get_object(Bucket=self.name, Key=key)["Body"]
        with contextlib.closing(body):
            return bytes(body.read())

    def write(self, key: str, content: bytes) -> None:
        self.client.put_object(Bucket=self.name, Key=key, Body=content)

    def unfinished(self) -> list[str]:
        """Keys of uploads in parts that were neither completed nor aborted."""
        uploads = self.client.list_multipart_uploads(Bucket=self.name).get("Uploads", ())
        return [each["Key"] for each in uploads]


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """URL of an S3 server. A process of its own: it is not gentle with warnings, and they are errors here."""
    command = [sys.executable, "-W", "ignore", "-c", S3_SERVER]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(command, **pipes) as server:
        url = server.stdout.readline().strip()
        assert url, "moto's server did not start"
        yield url
        server.stdin.close()
        server.wait(timeout=30)


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """An empty bucket; the environment tells its server and keys to whoever opens `s3://{bucket.name}`."""
    import boto3

    name, region = f"bucket-{uuid.uuid4().hex[:12]}", "eu-central-1"
    environment = {
        "AWS_ENDPOINT_URL": s3_server, "AWS_ALLOW_HTTP": "true", "AWS_REGION": region,
        "AWS_ACCESS_KEY_ID": "name", "AWS_SECRET_ACCESS_KEY": "secret",
    }  # fmt: skip
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    client = boto3.client("s3", region_name=region)
    client.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": region})
    yield Bucket(name, s3_server, client)
    client.close()


@pytest.fixture
def unused_port() -> Callable[[], int]:
    """Gives a TCP port that nothing listens on."""
    return free_port


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest."""
    first = {name: place for place, name in enumerate(_FIRST)}
    items.sort(key=lambda item: first.get(item.nodeid.partition("::")[0], len(first)))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what a test process of several ran against and could not run."""
    told = getattr(node, "workeroutput", {})
    _ran_against.update(told.get("ran_against", {}))
    _not_run.update(told.get("not_run", {}))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In a test process of several: hand on what the closing lines say. What is kept from collections is given back."""
    gc.unfreeze()
    told = getattr(session.config, "workeroutput", None)
    if told is not None:
        told.update(ran_against=_ran_against, not_run=_not_run)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what the run ran against, and list what it could not run."""
    write = terminalreporter.write_line
    for node, reason in _not_run.items():
        write(f"not run: {node}: {reason}")
    for what in ("postgres", "redis", "data"):
        write(f"{what}: {_ran_against.get(what, 'not used in this run')}")
