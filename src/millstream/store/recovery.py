"""What opening a store repairs, and how the catalog's log is folded back into its file.

A segment whose owner is dead is cut to the last byte that the catalog names, then sealed. A segment that the catalog
knows but that was never made (a crash between the two) is forgotten. A file that the catalog does not know is removed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import apsw

from millstream.primitives.durability import Durability
from millstream.primitives.limits import CATALOG_CHECKPOINT_PAGES, WRITE_LOCK_TIMEOUT_S
from millstream.primitives.telemetry import reach
from millstream.store.liveness import Liveness
from millstream.store.transaction import Committer

if TYPE_CHECKING:
    from millstream.store.store import Store


def is_alone(run: Path, liveness: Liveness) -> bool:
    """Return whether no other process has the store open; the caller holds the opening lock."""
    return not any(
        entry.name != liveness.process and liveness.is_alive(entry.name)
        for entry in (run / "live").iterdir()
    )


def checkpoint(connection: apsw.Connection) -> None:
    """Move everything from the log to the catalog's file, and sync it."""
    connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_FULL)


def checkpoint_shared(reader: apsw.Connection, committer: Committer) -> None:
    """Fold the log back when it has grown, the bulk of it beside the writers.

    The first pass copies pages without blocking anyone; the second, short one holds the write lock, so that the next
    commit starts the log anew instead of letting it grow for ever.
    """
    pages, _ = reader.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
    if pages < CATALOG_CHECKPOINT_PAGES:
        return
    reach("checkpoint.copied")
    committer.exclusive(_restart)
    reach("checkpoint.restarted")


def _restart(writer: apsw.Connection) -> None:
    writer.set_busy_timeout(0)
    try:
        writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_RESTART)
    except apsw.BusyError:
        return  # a long reader still needs the log; the next round tries again
    finally:
        writer.set_busy_timeout(int(WRITE_LOCK_TIMEOUT_S * 1000))


def seal_dead_segments(store: Store) -> int:
    """Cut and seal the segments of dead owners. Returns how many; safe at any time, by any process."""
    with store.read() as snapshot:
        owners = {row[2] for row in snapshot.run("log/segments_open")}
    dead = {owner for owner in owners if not store.is_alive(owner)}
    if not dead:
        return 0
    # Where a segment ends is asked only now: a process that was still alive at the first look may have committed since.
    with store.read() as snapshot:
        rows = [row for row in snapshot.run("log/segments_open") if row[2] in dead]
    _settle(store)
    for segment_id, partition_id, _, end in rows:
        _cut(store, partition_id, segment_id, end)
        reach("recovery.segment_cut")
    store.write(
        lambda tx: tx.many("log/segment_seal", [(row[0],) for row in rows]),
        durability=Durability.PROCESS,
    )
    return len(rows)


def remove_unknown_files(store: Store) -> int:
    """Remove segment files that the catalog does not know. Returns how many.

    Only for a process that is alone: a row is made before its file, but after a power loss the number of a lost row is
    given again, and the file of the new row must not be taken for the old one.
    """
    with store.read() as snapshot:
        known = {
            store.directory.segment(partition_id, segment_id)
            for segment_id, partition_id, _ in snapshot.run("log/segments_all")
        }
    unknown = [path for path in store.directory.segments.glob("*/*.frames") if path not in known]
    if unknown:
        _settle(store)
    for path in unknown:
        store.disk.remove(path)
        reach("recovery.file_removed")
    return len(unknown)


def _settle(store: Store) -> None:
    """Sync the catalog before bytes are removed: what it says now must not be undone by a power loss."""
    store.write(lambda tx: None, durability=Durability.DISK)


def _cut(store: Store, partition_id: int, segment_id: int, end: int) -> None:
    """Remove the bytes behind the last frame that the catalog names.

    A segment that is missing, or ends early, stays as it is: a power loss does that to appends that were never synced.
    Who reads one of its frames is refused, and all the rest of the store can be used.
    """
    path = store.directory.segment(partition_id, segment_id)
    if not path.exists() or path.stat().st_size <= end:
        return
    descriptor = store.disk.open(path)
    try:
        store.disk.truncate(descriptor, end)
    finally:
        os.close(descriptor)
