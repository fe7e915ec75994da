"""`ETag` and `If-Match` of a job: two people who change it at once hear of each other."""

import hashlib
import re
from typing import Any

from distillery.errors import InvalidRequest, Outdated
from store import jobs

_TAG = re.compile(r'"e([0-9]{1,9})-[0-9a-f]{32}"')


def etag(body: bytes, *, edition: int) -> str:
    """The strong tag of a job's representation. It begins with the edition of what a user may change."""
    return f'"e{edition}-{hashlib.sha256(body).hexdigest()[:32]}"'


def require(session: Any, job_id: str, if_match: str | None) -> None:
    """Refuse a change of a job that was changed since the sender looked at it.

    Only the edition is compared, not the whole tag: progress changes the job every second, and no change by a user
    could ever get through to a running one.

    Raises:
        NotFound: there is no such job.
        Outdated: `If-Match` names no tag of the present edition.
        InvalidRequest: `If-Match` holds what is no tag of a job.
    """
    if if_match is None:
        return
    edition = jobs.find(session, job_id, locked=True).edition
    if if_match.strip() == "*":
        return
    tags = [_TAG.fullmatch(part.strip()) for part in if_match.split(",")]
    if None in tags:
        raise InvalidRequest(
            f"If-Match holds '{if_match[:80]}', which is no ETag of a job.",
            hint="Send the ETag of GET /v1/jobs/{id}, its quotes included, or *.",
            pointer="/If-Match",
        )
    if edition not in [int(tag[1]) for tag in tags if tag]:
        raise Outdated(
            f"{job_id} was changed since you looked at it (edition {edition}).",
            hint="GET it again, look at what was changed, and send its new ETag.",
        )
