from __future__ import annotations

import shutil
from pathlib import Path
from queue import Queue
from threading import Event, Thread

from qwire.models.growth import watched


def test_growth_is_reported_while_it_happens(tmp_path: Path) -> None:
    reported: Queue[int] = Queue()
    with watched(tmp_path, reported.put):
        assert reported.get(timeout=30) == 0
        (tmp_path / "below").mkdir()
        (tmp_path / "below" / "part").write_bytes(bytes(1000))
        while reported.get(timeout=30) != 1000:
            pass


def test_files_and_folders_may_vanish(tmp_path: Path) -> None:
    done = Event()

    def churn() -> None:
        while not done.is_set():
            (tmp_path / "a" / "b").mkdir(parents=True)
            (tmp_path / "a" / "b" / "file").touch()
            shutil.rmtree(tmp_path / "a")

    thread = Thread(target=churn)
    thread.start()
    reported: Queue[int] = Queue()
    with watched(tmp_path, reported.put):
        for _ in range(5):
            reported.get(timeout=30)
    done.set()
    thread.join()


def test_a_folder_that_is_not_there_yet_is_empty(tmp_path: Path) -> None:
    reported: Queue[int] = Queue()
    with watched(tmp_path / "later", reported.put):
        assert reported.get(timeout=30) == 0
