"""Ties a command to the life of its parent: when the thread that started it ends, the kernel kills it.

    python -I -S tether.py PARENT_PID COMMAND ...

The tie survives exec, so this costs one short start of the interpreter and no code between fork and exec, where the
locks of the parent's other threads would be held for ever.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Tie, make sure that the parent had not died before that, and become the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux" and ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) was refused")
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
    os.execv(command[0], command)  # noqa: S606 - the command is the supervisor's own, and no shell is wanted


if __name__ == "__main__":
    main()
