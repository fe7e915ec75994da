"""Who may use a device of this machine: trainings side by side, or one measurement alone.

The kernel lets go of a lock when its process dies, however it dies, so that nobody waits for the dead. A measurement
that waits holds the turnstile that everyone passes, so that no stream of trainings can keep it waiting for ever.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_OF_THE_MACHINE = Path("/tmp/distillery-devices")  # noqa: S108 - made sticky, and shared by all on purpose
"""Whatever TMPDIR says: every trainer has a TMPDIR of its own."""
_LOOK_SECONDS = 0.1
_FOR_ALL, _FOLDER_FOR_ALL = 0o666, 0o1777
"""The processes of several users may share a device."""


def locks_folder() -> Path:
    """`$DISTILLERY_DEVICE_LOCKS`, or a folder that all users of this machine share. Containers that share a device
    share it too."""
    given = os.environ.get("DISTILLERY_DEVICE_LOCKS")
    return Path(given) if given else _OF_THE_MACHINE


def name_of(device: "torch.device") -> str:
    """The device's name among all of the machine: of a GPU its UUID, since each process may number them in its way."""
    if device.type != "cuda":
        return device.type
    import torch

    return f"cuda-{torch.cuda.get_device_properties(device).uuid}"


class DeviceLease:
    """This process's hold on one device.

    Args:
        device: its name, as `name_of` gives it.
        on_wait: called about ten times a second while somebody else has the device; what it raises ends the wait.
        folder: where the locks lie, by default `locks_folder()`.
    """

    def __init__(self, device: str, *, on_wait: Callable[[], None] = lambda: None, folder: Path | None = None) -> None:
        place = locks_folder() if folder is None else folder
        self._turn, self._use = (place / f"{device}.{what}" for what in ("turn", "use"))
        self._on_wait = on_wait
        self._shared: IO[bytes] | None = None

    @contextmanager
    def shared(self) -> Iterator["DeviceLease"]:
        """Hold the device together with others who share it, for as long as the block lasts."""
        with _opened(self._use) as use:
            self._share(use)
            self._shared = use
            try:
                yield self
            finally:
                self._shared = None

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the device alone; a hold that is shared is given up meanwhile and taken again in the end."""
        mine = self._shared
        if mine is not None:
            fcntl.flock(mine, fcntl.LOCK_UN)
        try:
            with _opened(self._turn) as turn, _opened(self._use) as use:
                self._wait_for(turn, fcntl.LOCK_EX)
                self._wait_for(use, fcntl.LOCK_EX)
                yield
        finally:
            if mine is not None:
                self._share(mine)

    def _share(self, use: IO[bytes]) -> None:
        with _opened(self._turn) as turn:
            self._wait_for(turn, fcntl.LOCK_EX)
            self._wait_for(use, fcntl.LOCK_SH)

    def _wait_for(self, file: IO[bytes], how: int) -> None:
        while True:
            try:
                fcntl.flock(file, how | fcntl.LOCK_NB)
            except BlockingIOError:
                self._on_wait()
                time.sleep(_LOOK_SECONDS)  # a lock that is waited for in the kernel hears of no wish to stop
            else:
                return


def _opened(path: Path) -> IO[bytes]:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("ab")
    for place, mode in ((path.parent, _FOLDER_FOR_ALL), (path, _FOR_ALL)):
        if place.stat().st_uid == os.getuid():
            place.chmod(mode)  # whatever this user's mask takes away
    return file
