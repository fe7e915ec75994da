"""A device is shared by trainings and held alone by a measurement, and nobody waits for the dead."""

import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.device_lease import DeviceLease, locks_folder

_HOLD = """
import sys
from pathlib import Path
from engine.device_lease import DeviceLease
lease = DeviceLease("cpu", folder=Path(sys.argv[1]))
with lease.alone() if sys.argv[2] == "alone" else lease.shared():
    print("held", flush=True)
    sys.stdin.read()
"""


class _Gave(Exception):
    """Raised by whoever waits no longer."""


def _give_up() -> None:
    raise _Gave


def _holder(folder: Path, how: str) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(folder), how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    return child


def _in_thread(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_trainings_share_a_device(tmp_path: Path) -> None:
    first, second = (DeviceLease("cpu", on_wait=_give_up, folder=tmp_path) for _ in range(2))
    with first.shared(), second.shared():
        pass


def test_devices_do_not_wait_for_each_other(tmp_path: Path) -> None:
    with (
        DeviceLease("cpu", on_wait=_give_up, folder=tmp_path).alone(),
        DeviceLease("cuda-0", on_wait=_give_up, folder=tmp_path).alone(),
    ):
        pass


@pytest.mark.parametrize(("held", "wanted"), [("shared", "alone"), ("alone", "shared"), ("alone", "alone")])
def test_a_measurement_is_alone_until_its_process_dies(tmp_path: Path, held: str, wanted: str) -> None:
    child = _holder(tmp_path, held)
    lease = DeviceLease("cpu", on_wait=_give_up, folder=tmp_path)
    with pytest.raises(_Gave), getattr(lease, wanted)():
        raise AssertionError("two had the device")
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    with getattr(lease, wanted)():
        pass


def test_a_training_that_begins_later_waits_behind_a_measurement_that_waits(tmp_path: Path) -> None:
    waits, measured, over = threading.Event(), threading.Event(), threading.Event()

    def measure() -> None:
        with DeviceLease("cpu", on_wait=waits.set, folder=tmp_path).alone():
            measured.set()
            over.wait()

    with DeviceLease("cpu", folder=tmp_path).shared():
        measuring = _in_thread(measure)
        assert waits.wait(10)
        late = DeviceLease("cpu", on_wait=_give_up, folder=tmp_path)
        with pytest.raises(_Gave), late.shared():
            raise AssertionError("it overtook the measurement")
        assert not measured.is_set()
    assert measured.wait(10)
    over.set()
    measuring.join(10)


def test_a_trainer_that_measures_gives_its_share_up_and_takes_it_again(tmp_path: Path) -> None:
    other = DeviceLease("cpu", on_wait=_give_up, folder=tmp_path)
    with DeviceLease("cpu", on_wait=_give_up, folder=tmp_path).shared() as mine:
        with mine.alone(), pytest.raises(_Gave), other.shared():
            raise AssertionError("it was not alone")
        with other.shared():
            pass
        with pytest.raises(_Gave), other.alone():
            raise AssertionError("the share was not taken again")
    with other.alone():
        pass


def test_two_trainers_that_measure_take_turns(tmp_path: Path) -> None:
    done = []

    def train_and_measure() -> None:
        with DeviceLease("cpu", folder=tmp_path).shared() as mine:
            together.wait(10)
            with mine.alone():
                done.append(threading.get_ident())

    together = threading.Barrier(2)
    for thread in [_in_thread(train_and_measure) for _ in range(2)]:
        thread.join(20)
    assert len(set(done)) == 2


def test_the_locks_of_a_machine_are_open_to_all_of_its_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILLERY_DEVICE_LOCKS", str(tmp_path / "locks"))
    with DeviceLease("cpu").alone():
        pass
    assert {stat.S_IMODE(each.stat().st_mode) for each in locks_folder().iterdir()} == {0o666}
    monkeypatch.delenv("DISTILLERY_DEVICE_LOCKS")
    assert locks_folder().name == "distillery-devices"
