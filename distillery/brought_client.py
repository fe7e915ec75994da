"""What either client can do with files, data sets and models that a user brings along.

The classes come in pairs that are the same, method for method: they only carry out what stands in `brought_flows`.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from distillery import brought_calls as calls
from distillery import brought_flows as flows
from distillery.brought_flows import OnSent
from distillery.calls import Call
from distillery.connection import PAGE_SIZE, Connection, Spec
from distillery.flows import Flow, exchange
from distillery.spec.imports import DatasetImport, ModelImport, parse_import
from distillery.views import Dataset, Model, Page, Upload, Validation

T = TypeVar("T")
_PLACEHOLDER = (f"upl_{'0' * 26}",)


def _with(ids: Sequence[str], asked: Mapping[str, Any]) -> dict[str, Any]:
    return {**asked, **({"uploads": list(ids)} if ids else {})}


class Running(Protocol):
    """Carries out a flow and gives its result."""

    def __call__(self, flow: Flow[T], /) -> T: ...


class AsyncRunning(Protocol):
    """The same for programs with an event loop."""

    async def __call__(self, flow: Flow[T], /) -> T: ...


class Bringing:
    """The flows of one service, for either client."""

    def __init__(self, service: Connection) -> None:
        self._service = service

    def upload(self, path: Path, *, on_sent: OnSent | None = None) -> Flow[Upload]:
        """Send a file."""
        return flows.upload(path, server=self._service.server, patience=self._service.outage, on_sent=on_sent)

    def uploads(self, paths: Sequence[Path], *, on_sent: OnSent | None = None) -> Flow[tuple[str, ...]]:
        """Send several files; their ids."""
        ids = []
        for path in paths:
            sent = yield from self.upload(path, on_sent=on_sent)
            ids.append(sent.id)
        return tuple(ids)

    def dataset(
        self,
        files: Sequence[Path],
        asked: Mapping[str, Any],
        *,
        on_sent: OnSent | None = None,
        on_look: Callable[[Dataset], None] | None = None,
    ) -> Flow[Dataset]:
        """Send the files and have a data set made of them."""
        parse_import(DatasetImport, _with(_PLACEHOLDER if files else (), asked))  # before anything is sent
        ids = yield from self.uploads(files, on_sent=on_sent)
        spec = parse_import(DatasetImport, _with(ids, asked))
        made = yield from flows.made(
            calls.add_dataset(spec), look=lambda id_, held: calls.dataset(id_, wait_seconds=held), what="The data set",
            server=self._service.server, patience=self._service.outage, on_look=on_look,
        )  # fmt: skip
        return made

    def model(
        self,
        files: Sequence[Path],
        asked: Mapping[str, Any],
        *,
        on_sent: OnSent | None = None,
        on_look: Callable[[Model], None] | None = None,
    ) -> Flow[Model]:
        """Send the files and have a model made of them."""
        flows.refuse_foreign(files)
        parse_import(ModelImport, _with(_PLACEHOLDER if files else (), asked))
        ids = yield from self.uploads(files, on_sent=on_sent)
        spec = parse_import(ModelImport, _with(ids, asked))
        made = yield from flows.made(
            calls.add_model(spec), look=lambda id_, held: calls.model(id_, wait_seconds=held), what="The model",
            server=self._service.server, patience=self._service.outage, on_look=on_look,
        )  # fmt: skip
        return made

    def rehearsed(self, spec: Spec, *, timeout_seconds: float) -> Flow[Validation]:
        """Try a job out."""
        return flows.rehearsed(
            spec, timeout_seconds=timeout_seconds, server=self._service.server, patience=self._service.outage
        )

    def one(self, call: Call[T]) -> Flow[T]:
        """A single request."""
        return exchange(call, server=self._service.server, patience=self._service.outage())


class Datasets:
    """The data sets that the service keeps."""

    def __init__(self, run: Running, bringing: Bringing) -> None:
        self._run, self._bringing = run, bringing

    def add(
        self,
        *files: Path,
        name: str,
        on_sent: OnSent | None = None,
        on_look: Callable[[Dataset], None] | None = None,
        **options: Any,
    ) -> Dataset:
        """Send files, have a worker make a data set of them, and wait for it. `options` are those of `DatasetImport`,
        `path` among them for what the workers see already.

        Raises:
            JobEndedBadly: it cannot be used; the detail says why.
        """
        return self._run(self._bringing.dataset(files, {"name": name, **options}, on_sent=on_sent, on_look=on_look))

    def get(self, dataset_id: str) -> Dataset:
        """One data set."""
        return self._run(self._bringing.one(calls.dataset(dataset_id)))

    def list(self) -> Iterator[Dataset]:
        """Every data set, newest first, page by page."""
        token: str | None = None
        while True:
            page: Page[Dataset] = self._run(self._bringing.one(calls.datasets(page_size=PAGE_SIZE, token=token)))
            yield from page.data
            if (token := page.next_page_token) is None:
                return

    def preview(self, dataset_id: str, *, media_type: str = "application/json") -> bytes:
        """Histograms and samples as JSON, or with `image/png` a contact sheet."""
        return self._run(self._bringing.one(calls.preview(dataset_id, media_type=media_type)))

    def remove(self, dataset_id: str) -> None:
        """Forget a data set, unless a job that has not ended needs it."""
        self._run(self._bringing.one(calls.delete_dataset(dataset_id)))


class AsyncDatasets:
    """The same for programs with an event loop."""

    def __init__(self, run: AsyncRunning, bringing: Bringing) -> None:
        self._run, self._bringing = run, bringing

    async def add(
        self,
        *files: Path,
        name: str,
        on_sent: OnSent | None = None,
        on_look: Callable[[Dataset], None] | None = None,
        **options: Any,
    ) -> Dataset:
        """Send files, have a worker make a data set of them, and wait for it. `options` are those of `DatasetImport`,
        `path` among them for what the workers see already.

        Raises:
            JobEndedBadly: it cannot be used; the detail says why.
        """
        return await self._run(
            self._bringing.dataset(files, {"name": name, **options}, on_sent=on_sent, on_look=on_look)
        )

    async def get(self, dataset_id: str) -> Dataset:
        """One data set."""
        return await self._run(self._bringing.one(calls.dataset(dataset_id)))

    async def list(self) -> AsyncIterator[Dataset]:
        """Every data set, newest first, page by page."""
        token: str | None = None
        while True:
            page: Page[Dataset] = await self._run(self._bringing.one(calls.datasets(page_size=PAGE_SIZE, token=token)))
            for row in page.data:
                yield row
            if (token := page.next_page_token) is None:
                return

    async def preview(self, dataset_id: str, *, media_type: str = "application/json") -> bytes:
        """Histograms and samples as JSON, or with `image/png` a contact sheet."""
        return await self._run(self._bringing.one(calls.preview(dataset_id, media_type=media_type)))

    async def remove(self, dataset_id: str) -> None:
        """Forget a data set, unless a job that has not ended needs it."""
        await self._run(self._bringing.one(calls.delete_dataset(dataset_id)))
