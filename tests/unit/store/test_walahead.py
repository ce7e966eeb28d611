"""Room in the write-ahead log: made before it is needed, never over what was committed, and never an error."""

from __future__ import annotations

import errno
from itertools import pairwise
from pathlib import Path
from threading import Event

import pytest

from millstream.primitives.limits import CATALOG_CHECKPOINT_PAGES
from millstream.store import Store
from millstream.store.signals import DUTY, channel_bit
from millstream.store.walahead import WalAhead
from millstream.store.walmark import FRAME_BYTES
from millstream.testing.faulty import FaultyDisk


def names(store: Store) -> list[str]:
    with store.read() as snapshot:
        rows = snapshot._cursor.execute("SELECT name FROM producer ORDER BY name")
        return [row[0] for row in rows]


def add(store: Store, name: str) -> None:
    store.write(lambda tx: tx.run("log/producer_open", (name,)))


def test_the_log_has_room_for_many_commits_and_does_not_grow_with_each(store_path: Path):
    with Store.open(store_path, durability="process") as store:
        store.duty.stop()
        add(store, "first")
        length = store.directory.wal.stat().st_size
        used = store._mark.current()[1] * FRAME_BYTES
        assert length >= used + 64 * 1024
        lengths = [length]
        for n in range(200):
            add(store, f"{n:03}")
            lengths.append(store.directory.wal.stat().st_size)
        grown = {after - before for before, after in pairwise(lengths)} - {0}
        assert grown
        assert all(step % (256 * 1024) == 0 for step in grown), "only by room, never by a commit"
        assert len(names(store)) == 201


def test_what_was_committed_is_there_when_the_process_is_gone(store_path: Path, tmp_path: Path):
    """The zeros are the log's end for SQLite: a copy of the files is what a kill leaves."""
    copy = tmp_path / "copy.mill"
    with Store.open(store_path, durability="process") as store:
        for n in range(50):
            add(store, f"{n:03}")
        for file in ("MILLSTREAM", "catalog.db", "catalog.db-wal"):
            copy.mkdir(exist_ok=True)
            (copy / file).write_bytes((store_path / file).read_bytes())
        (copy / "segments").mkdir()
    assert (copy / "catalog.db-wal").read_bytes().endswith(bytes(4096))
    with Store.open(copy, create=False) as again:
        assert names(again) == [f"{n:03}" for n in range(50)]


def test_room_that_another_process_made_is_used(tmp_path: Path):
    disk = FaultyDisk()
    path = tmp_path / "log"
    first, second = (WalAhead(disk.open(path, create=True), disk) for _ in range(2))
    first.make_room(0)
    length = path.stat().st_size
    second.make_room(0)
    assert path.stat().st_size == length
    first.make_room(length // FRAME_BYTES)
    assert length < path.stat().st_size <= 2 * length
    assert not path.read_bytes().strip(b"\0")


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_a_commit_does_without_room_that_cannot_be_made(tmp_path: Path, error: int):
    disk = FaultyDisk()
    path = tmp_path / "log"
    ahead = WalAhead(disk.open(path, create=True), disk)
    disk.fail("write", name="log", error=error)
    ahead.make_room(10)
    assert disk.calls.count(("write", "log")) == 1
    ahead.make_room(11)
    assert disk.calls.count(("write", "log")) == 1, "not tried again at every commit"


def test_a_log_that_has_grown_wakes_the_duty_once_for_each_stretch(
    store_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with Store.open(store_path, durability="process") as store:
        woken: list[int] = []
        monkeypatch.setattr(store.signals, "wake", woken.append)
        full = CATALOG_CHECKPOINT_PAGES
        for length, wakes in ((10, 0), (full, 1), (full + 9, 1), (2 * full, 2), (3, 2), (full, 3)):
            monkeypatch.setattr(store._mark, "committed", lambda length=length: length)
            store._note_commit()
            assert woken == [channel_bit(DUTY)] * wakes, length


def test_the_duty_does_what_is_urgent_when_it_is_woken(store_path: Path):
    done = Event()
    with Store.open(store_path, durability="process") as store:
        store.duty.add("urgent", lambda: bool(done.set()), urgent=True)
        while not done.wait(0.01):  # its thread may not have the duty yet
            store.signals.wake(channel_bit(DUTY))
        assert store.duty.errors == []
