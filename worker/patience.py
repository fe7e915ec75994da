"""Waiting for a service that is away."""

from collections.abc import Callable
from typing import Protocol, TypeVar

T = TypeVar("T")


class Patience(Protocol):
    """Runs an action, again and again while the service it needs is away, for as long as that makes sense."""

    def __call__(self, action: Callable[[], T]) -> T:
        """The action's result.

        Raises:
            Fenced: the claim was lost meanwhile.
            Unavailable: it is time to leave, and the service is still away.
        """
