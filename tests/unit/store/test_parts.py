"""Locks, signs of life, shared syncs, the duty, open files: the small parts of a store."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from millstream.engines.local.log import LocalLog
from millstream.primitives.errors import StoreFull
from millstream.store import Store, segment
from millstream.store.liveness import Liveness
from millstream.store.locks import FileLock
from millstream.store.sync import LocalSync
from tests.log_kit import make, read_rows

SOON_S = 20.0


def test_a_lock_has_one_holder(tmp_path: Path):
    one, two = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    with one:
        assert not two.try_acquire()
    assert two.try_acquire()
    assert not one.try_acquire()
    two.close()
    assert one.try_acquire()
    one.close()
    one.close()


def test_a_lock_knows_whether_its_file_was_removed(tmp_path: Path):
    lock = FileLock(tmp_path / "lock")
    assert lock.is_in_place()
    (tmp_path / "lock").unlink()
    assert not lock.is_in_place()
    (tmp_path / "lock").touch()
    assert not lock.is_in_place()
    lock.close()


def test_a_process_is_alive_as_long_as_it_holds_its_sign(tmp_path: Path):
    one, two = Liveness(tmp_path, "one"), Liveness(tmp_path, "two")
    assert one.is_alive("one")
    assert one.is_alive("two")
    assert not one.is_alive("three")
    two._lock.close()  # as the kernel does for a process that was killed
    assert not one.is_alive("two")
    assert (tmp_path / "live" / "two").exists()
    one.sweep()
    assert [path.name for path in (tmp_path / "live").iterdir()] == ["one"]
    one.close()
    assert list((tmp_path / "live").iterdir()) == []


def test_a_sync_serves_all_who_wrote_before_it_began():
    began, go = Event(), Event()
    count = 0

    def work() -> None:
        nonlocal count
        count += 1
        began.set()
        assert go.wait(SOON_S)

    sync = LocalSync(work)
    with ThreadPoolExecutor(5) as threads:
        first = threads.submit(sync.ensure, sync.ticket())
        assert began.wait(SOON_S)
        # These wrote while the first sync ran: it may have missed them, one more serves them all.
        later = [threads.submit(sync.ensure, sync.ticket()) for _ in range(4)]
        go.set()
        for future in [first, *later]:
            future.result(SOON_S)
    assert count == 2
    sync.ensure(1)
    assert count == 2


def test_a_sync_that_fails_is_not_taken_for_done():
    def work() -> None:
        raise OSError

    sync = LocalSync(work)
    ticket = sync.ticket()
    for _ in range(2):
        with pytest.raises(OSError):  # noqa: PT011 - that very one
            sync.ensure(ticket)


def test_a_chore_that_fails_does_not_keep_the_others_from_their_work(store_path: Path):
    done: list[str] = []

    def full() -> bool:
        raise StoreFull("full", where="x", expected="x", next_step="x")

    def broken() -> bool:
        return bool(1 // 0)

    with Store.open(store_path, durability="process") as store:
        store.duty._chores += [("full", full), ("broken", broken)]
        store.duty._chores.append(("good", lambda: bool(done.append("good"))))
        for _ in range(8):
            assert not store.duty.run_once()
        assert len(done) == 8
        assert len(store.duty.errors) == 10  # the last ones, and no more
        assert store.duty.errors[-2].startswith("full: full; where: x")
        assert "ZeroDivisionError" in store.duty.errors[-1]


def test_a_chore_that_has_more_to_do_says_so(store_path: Path):
    with Store.open(store_path, durability="process") as store:
        store.duty._chores = [("little", lambda: False), ("much", lambda: True)]
        assert store.duty.run_once()


def test_a_reader_keeps_so_many_files_open(store_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(segment, "_OPEN_FILES_MAX", 3)
    monkeypatch.setattr(segment, "SEGMENT_BYTES_MAX", 1)
    with Store.open(store_path, durability="process") as store:
        log = LocalLog(store)
        store.duty.stop()
        info = make(log, schema={"data": bytes})
        for n in range(10):
            log.append(info, {"data": bytes([n]) * 5_000})
        for _ in range(2):
            assert [row["data"][0] for _, _, row in read_rows(log, info)] == list(range(10))
            assert len(store.frames._files) == 3
        log.close()
