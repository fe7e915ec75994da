"""The files that a user brought along, put together on the worker's disk before a guarded program reads them."""

import hashlib
import os
from functools import partial
from pathlib import Path, PurePosixPath

from distillery.errors import CorruptFile, UnreadableData
from store import remote, uploads
from store.artifacts import Artifacts
from store.db import Database
from store.uploads import Whole
from worker.patience import Patience

_ROOTS_VARIABLE = "DISTILLERY_DATA_ROOTS"
BUCKETS_VARIABLE = "DISTILLERY_DATA_BUCKETS"
"""What may be read by `path` from S3: addresses such as s3://bucket/prefix/, separated by commas."""


def from_uploads(
    ids: tuple[str, ...], *, folder: Path, database: Database, artifacts: Artifacts, patiently: Patience
) -> list[tuple[Path, str]]:
    """Each upload as one verified file, with the name it has on its sender's machine.

    Raises:
        CorruptFile: the parts together do not have the sha256 that was announced.
        NotFound: an upload or a part is gone.
        Unavailable: the store stays out of reach.
    """
    found = []
    for place, upload_id in enumerate(ids):
        upload = patiently(partial(_find, upload_id, database=database))
        path = folder / f"source-{place}"
        try:
            patiently(partial(_join, upload, path, artifacts=artifacts))
        except CorruptFile:
            patiently(partial(_spoil, upload_id, database=database))
            raise
        found.append((path, upload.name))
    return found


def _spoil(upload_id: str, *, database: Database) -> None:
    with database.transaction() as session:
        uploads.spoil(session, upload_id)


def _find(upload_id: str, *, database: Database) -> Whole:
    with database.read() as session:
        return uploads.whole(session, upload_id, pointer="/uploads")


def _join(upload: Whole, path: Path, *, artifacts: Artifacts) -> None:
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for part in upload.parts:
            for piece in artifacts.verified(part.key, sha256=part.sha256):
                digest.update(piece)
                file.write(piece)
    if digest.hexdigest() != upload.sha256:
        raise CorruptFile(
            f"The parts of {upload.id} ('{upload.name}') have the sha256 {digest.hexdigest()} together; "
            f"{upload.sha256} was announced.",
            hint="The file changed while it was sent, or the announced sha256 is that of another one. Send it again.",
            pointer="/uploads",
        )


def from_path(given: str, *, folder: Path) -> list[tuple[Path, str]]:
    """What lies at a path that the worker sees, or at an address in S3, which is brought here.

    Raises:
        UnreadableData: nothing is there, or it lies outside of what this worker may read.
        NotFound: S3 has nothing there.
        Unavailable: S3 is out of reach.
    """
    if given.startswith("s3://"):
        _require_allowed_bucket(given)
        return [(remote.bring(given, to=folder / "source-0"), PurePosixPath(given.rstrip("/")).name)]
    from engine.data import paths  # here: the process that holds leases carries nothing of the engine otherwise

    try:
        paths.require_allowed(given)
        found = Path(given).resolve()
        if not found.exists():
            raise UnreadableData(
                f"'{given}': there is nothing.", hint="Give the path as the worker sees it, or upload the file."
            )
    except UnreadableData as error:
        error.pointer = error.pointer or "/path"
        raise
    return [(found, found.name or "folder")]


def _require_allowed_bucket(given: str) -> None:
    allowed = [each.strip() for each in os.environ.get(BUCKETS_VARIABLE, "").split(",") if each.strip()]
    if any(given.startswith(each) for each in allowed):
        return
    if allowed or os.environ.get(_ROOTS_VARIABLE):
        raise UnreadableData(
            f"'{given}' lies outside of what this worker may read.",
            hint=f"Ask the operator to add its address to ${BUCKETS_VARIABLE}.",
            pointer="/path",
        )
