"""Where attempts keep their files, when several workers of a machine come and go at once."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from worker import workplace

ROUNDS = 200


def test_workers_that_come_and_go_at_once_never_meet_each_others_folders(tmp_path: Path) -> None:
    def come_and_go(worker: int) -> None:
        for attempt in range(1, ROUNDS):
            with workplace.folder(tmp_path, claim_id=f"job_{worker:026}", attempt=attempt) as mine:
                (mine / "file").write_text("mine")
                assert (mine / "file").read_text() == "mine"

    with ThreadPoolExecutor(4) as workers:
        list(workers.map(come_and_go, range(4)))
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []
