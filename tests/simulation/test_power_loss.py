"""Losing power at every sync of the store and the log, then reopen and compare.

A scenario runs once on a disk that remembers every write and every sync. Then, for moments before and behind
each sync, a disk is made as it may look when power failed then: any part of what was not synced is
there, down to single sectors, and the rest is not. With durability ``disk`` all that was acknowledged
by then must be there. With ``process`` the last of the small appends may be missing, and nothing else; bytes of large
ones that are missing in a segment must be refused.

Environment:
    MILLSTREAM_SEEDS  how many disks are made for each moment; ``make soak`` sets it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from millstream.engines.local.log import LocalLog
from millstream.primitives.errors import StoreCorrupt
from millstream.store import Store
from millstream.store.check import check
from millstream.testing.crash import run
from millstream.testing.power import PowerLoss
from millstream.testing.trace import Kind, Operation, TraceDisk
from millstream.testing.unsynced import UnsyncedDisk
from tests.simulation import looks, scenarios
from tests.simulation.ledger import (
    Ledger,
    events,
    opened,
    read_partition,
    spec,
    stored,
    text_of,
    verify,
)

SEEDS = int(os.environ.get("MILLSTREAM_SEEDS", "1"))
STORE = "shop.mill"

pytestmark = pytest.mark.timeout(120 * SEEDS)

Look = Callable[[looks.Crash], None]


def trace(name: str, folder: Path, durability: str = "disk") -> list[Operation]:
    """Run a scenario on a disk with a memory."""
    folder.mkdir(parents=True)
    outcome = run(scenarios.traced, name, folder / STORE, durability)
    assert not outcome.error, outcome.error
    [operations] = outcome.reports
    return list(operations)


def lose_power(operations: list[Operation], folder: Path, seed: int, look: Look) -> None:
    """Lose power at each boundary of a trace, and look at what is left."""
    loss = PowerLoss(operations)
    for position in loss.boundaries():
        loss.advance(position)
        for number in range(SEEDS):
            left = folder / f"{position}-{number}"
            loss.write_to(left, Random(f"{seed}-{position}-{number}"))
            notes = list(loss.notes)
            try:
                look(looks.Crash(left / STORE, notes, Ledger.of(notes)))
            except Exception as error:
                error.add_note(
                    f"power lost at {position} of {len(loss)}, disk {number} of {seed}: {left}"
                )
                raise
            shutil.rmtree(left, ignore_errors=True)


def whole(left: looks.Crash) -> None:
    """Nothing acknowledged is lost, and of the rest only the end."""
    verify(left.path, left.ledger)
    with opened(left.path) as log:
        left.ledger.verify_prefix(stored(log) if "events" in log.topic_names() else [])


@pytest.mark.parametrize("name", ["append", "group_commit", "checkpoint", "merge", "producers"])
def test_nothing_acknowledged_is_lost(name: str, tmp_path: Path, seed: int):
    lose_power(trace(name, tmp_path / "live"), tmp_path, seed, whole)


def test_deletion_of_a_topic(tmp_path: Path, seed: int):
    lose_power(trace("delete_topic", tmp_path / "live"), tmp_path, seed, looks.whole_or_gone)


def test_transactions_are_whole(tmp_path: Path, seed: int):
    lose_power(trace("transaction", tmp_path / "live"), tmp_path, seed, looks.moved_once)


def test_groups_lose_no_event(tmp_path: Path, seed: int):
    lose_power(trace("rebalance", tmp_path / "live"), tmp_path, seed, looks.read_by_one)


def test_retention_deletes_the_oldest_only(tmp_path: Path, seed: int):
    lose_power(trace("retention", tmp_path / "live"), tmp_path, seed, looks.oldest_gone)


def test_compaction_keeps_the_last_of_each_key(tmp_path: Path, seed: int):
    lose_power(trace("compaction", tmp_path / "live"), tmp_path, seed, looks.newest_kept)


def only_the_end_lost(left: looks.Crash) -> None:
    """Some of what was acknowledged last may be missing, and nothing before it."""
    begun = Ledger(left.ledger.begun)
    whole(looks.Crash(left.path, left.reports, begun))


def test_without_syncs_small_appends_lose_only_their_end(tmp_path: Path, seed: int):
    operations = trace("append_small", tmp_path / "live", "process")
    assert not any("segments/0" in operation.path for operation in operations)
    lose_power(operations, tmp_path, seed, only_the_end_lost)


def never_misread(left: looks.Crash) -> None:
    """What is missing in a segment is refused, by the reader and by ``check``; all else is as it was sent."""
    begun = {n for batch in left.ledger.begun for n in batch}
    refused, found = False, list[int]()
    try:
        with Store.open(left.path, disk=UnsyncedDisk()) as store:
            log = LocalLog(store)
            store.duty.stop()
            if "events" in log.topic_names():
                info = log.topic("events")
                for number in range(info.partitions):
                    try:
                        rows = read_partition(log, info, number)
                    except StoreCorrupt:
                        refused = True
                        continue
                    assert all(row["text"] == text_of(row["n"]) for _, row in rows)
                    found += [row["n"] for _, row in rows]
            log.close()
    except StoreCorrupt:
        refused = True
    assert len(found) == len(set(found))
    assert begun.issuperset(found)
    assert bool(check(left.path)) == refused


def test_without_syncs_large_appends_are_never_misread(tmp_path: Path, seed: int):
    lose_power(trace("append", tmp_path / "live", "process"), tmp_path, seed, never_misread)


def test_upkeep_without_syncs_keeps_what_was_synced(tmp_path: Path, seed: int):
    """A process with durability ``process`` must not take back what another one acknowledged with ``disk``."""
    lose_power(trace("merge_without_syncs", tmp_path / "live", ""), tmp_path, seed, whole)


def test_a_folder_that_another_process_left_unsynced_is_synced(tmp_path: Path, seed: int):
    """Who made the folder of a partition may have been killed before it synced the name."""
    disk = TraceDisk(tmp_path / "live" / STORE)
    with Store.open(tmp_path / "live" / STORE, disk=disk) as store:
        log = LocalLog(store)
        store.duty.stop()
        info = log.create_topic(spec())
        for partition_id in info.partition_ids:
            store.directory.partition(partition_id).mkdir()
        log.append(info, events(range(5)))
        loss = PowerLoss(disk.operations)
        loss.advance(len(loss))
        log.close()
    ledger = Ledger([tuple(range(5))], [tuple(range(5))])
    for number in range(12):
        loss.write_to(tmp_path / f"{number}", Random(f"{seed}-{number}"))
        verify(tmp_path / f"{number}" / STORE, ledger)


def test_marks_of_an_older_log_do_not_refuse_a_new_one(tmp_path: Path, seed: int):
    """The log's new name reaches the disk, and the marks in ``run/signals`` are those of the log before."""
    operations = trace("open_twice", tmp_path / "live")
    loss = PowerLoss(operations)
    [closed] = [i for i, operation in enumerate(operations) if operation.note == ("closed", [])]
    for position in range(closed, len(operations) + 1):
        loss.advance(position)
        for number in range(10):
            left = tmp_path / f"{position}-{number}"
            loss.write_to(left, Random(f"{seed}-{position}-{number}"))
            verify(left / STORE, Ledger.of(loss.notes))


@pytest.mark.parametrize("file", ["segments/", "catalog.db-wal"])
def test_a_sync_that_is_left_out_is_noticed(file: str, tmp_path: Path, seed: int):
    """What these tests would say of a store that forgets to sync."""
    operations = [
        operation
        for operation in trace("append", tmp_path / "live")
        if not (operation.kind is Kind.SYNC and file in operation.path)
    ]
    with pytest.raises((AssertionError, StoreCorrupt)):
        lose_power(operations, tmp_path, seed, whole)


@pytest.mark.parametrize("content", [b"", bytes(58)])
def test_a_store_whose_making_was_cut_short_is_made_again(content: bytes, store_path: Path):
    """Power fails between the marker's name and its bytes."""
    with opened(store_path):
        marker = store_path / "MILLSTREAM"
        whole_marker = marker.read_bytes()
    marker.write_bytes(content)
    verify(store_path, Ledger())
    assert marker.read_bytes() == whole_marker
