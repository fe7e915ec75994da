"""What the next attempt does differently after one that could not go on."""

import errno

from distillery.errors import StorageFull
from distillery.views import Adjustments, JobError
from store.claims import MOST_SECONDS, Claim
from worker.messages import Halted

MOST_MICRO_BATCHES = 8
"""Three halvings."""
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def remedy(halted: Halted, *, before: Adjustments, batch_size: int) -> Adjustments | JobError:
    """How the next attempt runs, or the error that ends the job because nothing is left to try."""
    if halted.reason == "out_of_memory":
        parts = before.micro_batches * 2
        if parts > min(MOST_MICRO_BATCHES, batch_size):
            return _out_of_memory(halted, parts=before.micro_batches)
        return before.model_copy(update={"micro_batches": parts})
    if halted.reason == "diverged":
        if halted.run in before.rate_halved:
            return _diverged(halted)
        return before.model_copy(update={"rate_halved": (*before.rate_halved, halted.run)})
    return before


def told(halted: Halted, after: Adjustments, *, wait_seconds: float) -> str:
    """In a sentence or two, what happened and what happens next."""
    if halted.reason == "out_of_memory":
        return (
            f"{halted.detail} The job goes on from its last checkpoint with each batch in {after.micro_batches} parts, "
            f"whose gradients are summed."
        )
    if halted.reason == "diverged":
        return f"{halted.detail} The job goes on from its last checkpoint at half the learning rate."
    return f"{halted.detail} The last checkpoint stays, and the job tries again in {wait_seconds:g} s."


def no_space(error: Exception) -> bool:
    """Whether a disk was full."""
    return isinstance(error, StorageFull) or (isinstance(error, OSError) and error.errno in _NO_SPACE)


def time_limit(seconds: float) -> JobError:
    """The error of a job whose `resources.max_seconds` are over."""
    return JobError(
        type="urn:distillery:error:time_limit",
        title="The time limit is reached",
        detail=f"The job ran for the {seconds:g} seconds that its spec allows (resources.max_seconds).",
        code="TIME_LIMIT",
        pointer="/resources/max_seconds",
        hint="Retry the job with a larger max_seconds: it goes on from its last checkpoint.",
        retryable=True,
    )


def out_of_time(claim: Claim) -> JobError:
    """The error of work that ran for as long as it may."""
    if claim.kind == "distillation":
        return time_limit(claim.spec.resources.max_seconds or 0.0)
    seconds = MOST_SECONDS[claim.kind]
    return JobError(
        type="urn:distillery:error:time_limit",
        title="It took too long",
        detail=f"It was not done after {seconds:,.0f} seconds, which is the most for this kind of work.",
        code="TIME_LIMIT",
        hint="Try again on a quieter machine, or with less: fewer or smaller files.",
        retryable=True,
    )


def died(claim: Claim, *, exit_code: int | None, detail: str) -> JobError:
    """The error of an import or a trial whose program ended without a word: to try again would kill it again."""
    what = {"dataset": "reading the files", "model": "reading the weights"}.get(claim.kind, "trying the job out")
    return JobError(
        type="urn:distillery:error:program_died",
        title="The program died",
        detail=f"The program died while {what} (exit code {exit_code}). {detail}".rstrip(),
        code="PROGRAM_DIED",
        hint="When memory ran out (-9), use smaller files or a machine with more; else see the detail.",
        retryable=True,
    )


def _out_of_memory(halted: Halted, *, parts: int) -> JobError:
    return JobError(
        type="urn:distillery:error:out_of_memory",
        title="Memory ran out",
        detail=f"{halted.detail} Batches in {parts} parts did not help.",
        code="OUT_OF_MEMORY",
        pointer="/training/batch_size",
        hint="Lower training.batch_size, take smaller networks or images, or a device with more memory.",
    )


def _diverged(halted: Halted) -> JobError:
    return JobError(
        type="urn:distillery:error:diverged",
        title="Training diverged",
        detail=f"{halted.detail} Going on from the last checkpoint at half the learning rate did not help.",
        code="DIVERGED",
        pointer="/training/optimizer/lr",
        hint="Lower training.optimizer.lr, add training.schedule.warmup_epochs, or set training.clip_grad_norm.",
    )
