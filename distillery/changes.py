"""What may be sent about a job that is there already."""

from typing import Annotated

from pydantic import Field

from distillery.spec.frozen import Frozen
from distillery.spec.job import MOST_LABELS, LabelKey, LabelValue, MaxSeconds, Name, Priority


class JobChanges(Frozen):
    """What a user may change of a job; what is left out stays. A label of null is taken away."""

    name: Name | None = None
    labels: Annotated[dict[LabelKey, LabelValue | None], Field(max_length=MOST_LABELS)] | None = None
    priority: Priority | None = None


class RetryOptions(Frozen):
    """What may be different in a retry."""

    max_seconds: MaxSeconds | None = None
    """In place of the limit in the spec."""
