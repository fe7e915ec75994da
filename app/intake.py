"""What can be told of a file that was brought along from its first bytes: formats that are never read here."""

from app.service import Served
from distillery.errors import UnusableWeights
from distillery.sniff import advice, describe, sniff
from distillery.spec.imports import ModelImport
from store import uploads

HEAD_BYTES = 65_536


def refuse_foreign(asked: ModelImport, served: Served) -> None:
    """Refuse a model in a format that could run code, or is none of ours, before a worker is asked.

    Raises:
        UnusableWeights: with what to do about it.
        NotFound: there is no such upload.
        WrongState: parts of it are missing.
    """
    for place, upload_id in enumerate(asked.uploads):
        with served.database.read() as session:
            whole = uploads.whole(session, upload_id, pointer=f"/uploads/{place}")
        first = whole.parts[0]
        head = bytearray()
        for piece in served.artifacts.stream(first.key, end=min(first.size_bytes, HEAD_BYTES)):
            head += piece
        kind = sniff(bytes(head))
        if mend := advice(kind):
            raise UnusableWeights(
                f"'{whole.name}' is {describe(kind)}, which is not read as a model.",
                hint=mend,
                pointer=f"/uploads/{place}",
            )
