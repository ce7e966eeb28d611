"""Disks that fail: no space, failed writes, syncs and reads. The writer stops cleanly, and nothing is half there.

``FaultyDisk`` fails below the catalog and the segments alike. Every test ends with the store opened again on a good
disk: what was acknowledged is there, what was refused is not, and all checksums fit.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from millstream.engines.local.log import LocalLog
from millstream.log.batching import batching_policy
from millstream.primitives.errors import (
    MillstreamError,
    StoreFull,
    StoreReadOnly,
    StoreStopped,
)
from millstream.store import Store
from millstream.store.check import check
from millstream.testing.faulty import FaultyDisk
from millstream.testing.log_suite import SOON_S, drain, options
from tests.log_kit import make, numbers
from tests.refusals import refused

SMALL, LARGE = 10, 60_000
WAL, SEGMENT = "catalog.db-wal", ".frames"


def event(n: int) -> dict[str, Any]:
    """Every third event is too large for the catalog."""
    return {"n": n, "data": bytes(LARGE if n % 3 == 2 else SMALL)}


@contextmanager
def failing(path: Path, durability: str = "disk") -> Iterator[tuple[LocalLog, FaultyDisk]]:
    """A store on a disk that may fail, with a topic and three events."""
    disk = FaultyDisk()
    with Store.open(path, disk=disk, durability=durability) as store:
        log = LocalLog(store)
        store.duty.stop()
        info = make(log, schema={"n": int, "data": bytes})
        for n in range(3):
            log.append(info, event(n))
        yield log, disk
        disk.heal()
        log.close()


def survivors(path: Path) -> list[int]:
    """Open again on a good disk, look, append, and verify everything."""
    with Store.open(path) as store:
        log = LocalLog(store)
        store.duty.stop()
        info = log.topic("numbers")
        found = numbers(log, info)
        log.append(info, [event(1_000), event(1_001), event(1_002)])
        assert numbers(log, info) == [*found, 1_000, 1_001, 1_002]
        log.close()
    assert check(path) == []
    return found


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize(("place", "n"), [(WAL, 3), (SEGMENT, 5)])
def test_without_space_an_append_is_refused_and_the_next_one_works_when_there_is_some(
    store_path: Path, place: str, n: int, code: int
):
    with failing(store_path) as (log, disk):
        info = log.topic("numbers")
        disk.fail("write", name=place, error=code)
        for _ in range(3):
            with refused(StoreFull, str(store_path), "space"):
                log.append(info, event(n))
        assert numbers(log, info) == [0, 1, 2]
        disk.heal()
        log.append(info, event(n))
        assert numbers(log, info) == [0, 1, 2, n]
    assert survivors(store_path) == [0, 1, 2, n]


def test_without_space_for_a_new_segment_the_next_append_makes_it(store_path: Path):
    with failing(store_path) as (log, disk):
        other = make(log, "other", schema={"n": int, "data": bytes})
        disk.fail("open", name=SEGMENT, error=errno.ENOSPC)
        with refused(StoreFull):
            log.append(other, event(2))
        disk.heal()
        log.append(other, event(2))
        assert numbers(log, other) == [2]
    assert survivors(store_path) == [0, 1, 2]


@pytest.mark.parametrize(("place", "n"), [(WAL, 3), (SEGMENT, 5)])
def test_a_disk_that_became_read_only_is_said(store_path: Path, place: str, n: int):
    with failing(store_path) as (log, disk):
        info = log.topic("numbers")
        disk.fail("write", name=place, error=errno.EROFS)
        with refused(StoreReadOnly, str(store_path)):
            log.append(info, event(n))
        assert numbers(log, info) == [0, 1, 2]
    assert survivors(store_path) == [0, 1, 2]


@pytest.mark.parametrize(
    ("operation", "place", "n", "code"),
    [
        ("write", WAL, 3, errno.EIO),
        ("write", SEGMENT, 5, errno.EIO),
        ("sync", WAL, 3, errno.EIO),
        ("sync", SEGMENT, 5, errno.EIO),
        ("sync", WAL, 3, errno.ENOSPC),
        ("sync", SEGMENT, 5, errno.ENOSPC),
        ("sync", WAL, 3, errno.EROFS),
    ],
)
def test_after_a_failed_write_or_sync_the_process_never_writes_again(
    store_path: Path, operation: str, place: str, n: int, code: int
):
    with failing(store_path) as (log, disk):
        info = log.topic("numbers")
        disk.fail(operation, name=place, error=code, times=1)
        with refused(StoreStopped, str(store_path)):
            log.append(info, event(n))
        # The disk works again, and is not trusted: a second sync would claim what the first one lost.
        disk.calls.clear()
        for again in (event(6), event(8)):
            with refused(StoreStopped, "stopped writing", "open the store again"):
                log.append(info, again)
        with refused(StoreStopped):
            log.store.checkpoint()
        assert ("sync", WAL) not in disk.calls
        assert numbers(log, info)[:3] == [0, 1, 2]  # readers go on
    # A commit whose sync failed was never acknowledged: it may be there or not, but not by half.
    assert survivors(store_path) in ([0, 1, 2], [0, 1, 2, n])


def test_what_waits_for_a_failed_sync_fails_with_it(store_path: Path):
    with failing(store_path) as (log, disk):
        info = log.topic("numbers")
        producer = log.producer("p", batching_policy(linger="1d"))
        futures = [producer.send(info, event(n)) for n in range(3, 9)]
        disk.fail("sync", name=WAL, times=1)
        producer.flush(SOON_S)
        assert {type(future.exception(SOON_S)) for future in futures} == {StoreStopped}
        producer.close()
    found = survivors(store_path)
    assert found in ([0, 1, 2], [0, 1, 2, *range(3, 9)])


def test_a_consumer_cannot_commit_on_a_full_disk_and_reads_the_same_again(store_path: Path):
    with failing(store_path) as (log, disk):
        info = log.topic("numbers")
        consumer = log.consumer(info, "readers", options())
        assert consumer.poll(0) is not None
        disk.fail("write", name=WAL, error=errno.ENOSPC)
        with refused(StoreFull):
            consumer.commit()
        consumer.close()  # cannot leave its group, and does not raise
        disk.heal()
    with Store.open(store_path) as store:
        log = LocalLog(store)
        with log.consumer(log.topic("numbers"), "readers", options()) as consumer:
            assert drain(consumer) == [0, 1, 2]
        log.close()


def test_a_transaction_that_finds_no_space_leaves_nothing(store_path: Path):
    with failing(store_path) as (log, disk):
        info, other = log.topic("numbers"), make(log, "other", schema={"n": int, "data": bytes})
        transaction = log.transaction()
        transaction.append(other, event(3))
        transaction.append(info, event(5))
        disk.fail("write", name=WAL, error=errno.ENOSPC, times=1)
        with refused(StoreFull):
            transaction.finish()
        assert (numbers(log, info), numbers(log, other)) == ([0, 1, 2], [])
        transaction.finish()
        assert (numbers(log, info), numbers(log, other)) == ([0, 1, 2, 5], [3])
    assert survivors(store_path) == [0, 1, 2, 5]


@pytest.mark.parametrize("place", ["segment", "catalog.db"])
def test_a_failed_read_is_said_and_stops_nobody(store_path: Path, place: str):
    with failing(store_path, "process") as (log, disk):
        info = log.topic("numbers")
        if place == "catalog.db":  # from its file, and not from the log or the cache
            log.store.committer.exclusive(lambda writer: writer.wal_checkpoint(mode=2))
            log.store._local.__dict__.clear()
        disk.fail("read", name=place)
        with pytest.raises(MillstreamError) as caught:
            numbers(log, info)
        assert caught.value.where
        disk.heal()
        log.append(info, event(3))
        assert numbers(log, info) == [0, 1, 2, 3]
    assert survivors(store_path) == [0, 1, 2, 3]


@pytest.mark.parametrize("operation", ["write", "sync"])
def test_a_checkpoint_that_fails_loses_nothing(
    store_path: Path, operation: str, monkeypatch: pytest.MonkeyPatch
):
    from millstream.store import recovery

    monkeypatch.setattr(recovery, "CATALOG_CHECKPOINT_PAGES", 1)
    with failing(store_path) as (log, disk):
        info = log.topic("numbers")
        # The last letter: the catalog's file itself, and not its log.
        disk.fail(
            operation, name="catalog.db", error=errno.ENOSPC if operation == "write" else errno.EIO
        )
        with pytest.raises(MillstreamError):
            log.upkeep.checkpoint()
        disk.heal()
        assert numbers(log, info) == [0, 1, 2]
    assert survivors(store_path) == [0, 1, 2]


def test_background_work_that_finds_no_space_is_remembered_and_tried_again(store_path: Path):
    with failing(store_path, "process") as (log, disk):
        info = log.topic("numbers")
        for n in range(3, 103):
            log.append(info, {"n": n, "data": b"x"})
        disk.fail("write", name=SEGMENT, error=errno.ENOSPC)
        log.store.duty.run_once()
        assert any("merge" in error and "space" in error for error in log.store.duty.errors)
        log.append(info, {"n": 103, "data": b"x"})
        disk.heal()
        log.store.duty.run_once()
        log.store.duty.errors = []
        with log.store.read() as snapshot:
            assert len(snapshot.run("log/frames_from", (info.partition_ids[0], 0, -1))) < 10
        assert numbers(log, info) == list(range(104))
    assert survivors(store_path) == list(range(104))


@pytest.mark.parametrize("operation", ["open", "write", "sync", "sync_directory"])
@pytest.mark.parametrize("nth", [1, 2, 3, 5, 8])
def test_a_store_whose_making_failed_is_made_at_the_next_try(
    store_path: Path, operation: str, nth: int
):
    disk = FaultyDisk()
    disk.fail(operation, error=errno.ENOSPC, nth=nth, times=1)
    problem = ""
    try:
        Store.open(store_path, disk=disk).close()
    except (StoreFull, StoreStopped, StoreReadOnly) as error:
        problem = error.where
    assert not problem or str(store_path) in problem
    disk.heal()
    with Store.open(store_path, disk=disk) as store:
        log = LocalLog(store)
        make(log, schema={"n": int, "data": bytes})
        log.close()
    assert survivors(store_path) == []


CASES = [
    (operation, place, code)
    for operation, places in (
        ("write", (WAL, SEGMENT)),
        ("sync", (WAL, SEGMENT)),
        ("open", (SEGMENT,)),
    )
    for place in places
    for code in (errno.ENOSPC, errno.EIO)
]


@pytest.mark.parametrize(("operation", "place", "code"), CASES)
def test_whichever_call_fails_each_event_is_there_by_its_acknowledgement(
    tmp_path: Path, operation: str, place: str, code: int
):
    """The nth call fails, for one n after the other, until a run comes to its end undisturbed."""
    for nth in range(1, 40, 3):
        path, disk = tmp_path / f"{nth}.mill", FaultyDisk()
        acknowledged: list[int] = []
        with Store.open(path, disk=disk) as store:
            log = LocalLog(store)
            store.duty.stop()
            info = make(log, schema={"n": int, "data": bytes})
            disk.fail(operation, name=place, error=code, nth=nth, times=1)
            failed = 0
            for n in range(0, 12, 2):
                try:
                    log.append(info, [event(n), event(n + 1)])
                    acknowledged += [n, n + 1]
                except MillstreamError:
                    failed += 1
            log.close()
        found = survivors(path)
        assert set(acknowledged) <= set(found), f"lost at call {nth}"
        assert found == sorted(set(found)), f"twice or out of order at call {nth}"
        assert len(found) % 2 == 0, f"half an append at call {nth}"
        if not failed:
            return
    pytest.fail("the work was never done without a failure")
