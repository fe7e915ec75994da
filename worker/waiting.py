"""How the threads of whatever computes wait for each other. torch's library reads it when it is loaded."""

import os
from collections.abc import Mapping

WAITING: Mapping[str, str] = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "5000"}
"""For the environment of whatever computes. Left alone, libgomp's threads spin for milliseconds at every barrier, on a
core that something else needs: beside one busy process a step becomes many times slower. Those that sleep at once pay a
fifth of their pace on a quiet machine, where the partner comes within microseconds; so they spin for about as long."""


def wait_patiently() -> None:
    """For a program that was started by hand, before it imports torch; what its user has set stays."""
    if "OMP_WAIT_POLICY" not in os.environ:
        for name, value in WAITING.items():
            os.environ.setdefault(name, value)
