"""Verifying a store: every checksum and every invariant, without changing a byte of it.

What is read: the marker, every page of the catalog (SQLite's integrity check, through the checksums
of the pages), the write-ahead log against the marks of ``walmark.py``, and every frame of every
partition. Other processes may use the store meanwhile: all is compared with one snapshot of the
catalog. Files that no row names are left over from a crash, and are no fault; the next process that
opens the store alone removes them.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import apsw

from millstream.primitives.errors import NotAStore, StoreCorrupt
from millstream.store.catalog import (
    APPLICATION_ID,
    CHECKSUM_VFS,
    RESERVED_BYTES,
    from_sqlite,
    keep_log,
    load_checksums,
    refuse_newer,
)
from millstream.store.check_frames import PartitionRow, check_partition
from millstream.store.directory import MARKER_TEXT, Directory
from millstream.store.transaction import Snapshot
from millstream.store.walmark import damage_of_log


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong."""

    what: str
    where: str


@dataclass(slots=True)
class Report:
    """What was found and what was read."""

    findings: list[Finding] = field(default_factory=list)
    totals: Counter[str] = field(default_factory=Counter)
    """How many topics, partitions, frames, events, bytes of frames, catalog pages and left-over files there are."""

    def add(self, what: str, where: object) -> None:
        """Add a finding."""
        self.findings.append(Finding(what, str(where)))


def check(path: str | os.PathLike[str]) -> list[Finding]:
    """Return everything that is wrong with a store; an empty list if nothing is. See ``inspect``."""
    return inspect(path).findings


def inspect(path: str | os.PathLike[str]) -> Report:
    """Verify a store and count what is in it.

    Raises NotAStore if there is none at ``path``, StoreVersionError if it is newer than this library. Reads every byte.
    """
    directory = Directory(Path(path).absolute())
    report = Report()
    if not directory.marker.is_file() and not directory.catalog.is_file():
        raise NotAStore(
            "the directory is not a store"
            if directory.root.exists()
            else "there is no such directory",
            where=str(directory.root),
            expected="a file MILLSTREAM in it",
            next_step="give the path of a store",
        )
    _check_marker(directory, report)
    # The marks before the log: a log that grows meanwhile fits them even so.
    for damage in damage_of_log(directory.run / "signals", directory.wal):
        report.add(damage, directory.wal)
    try:
        with _open(directory) as connection:
            _check_catalog(connection, directory, report)
    except apsw.Error as error:
        report.add(from_sqlite(error, directory.catalog).what, directory.catalog)
    except StoreCorrupt as error:
        report.add(error.what, error.where)
    return report


def _check_marker(directory: Directory, report: Report) -> None:
    if not directory.marker.is_file():
        report.add("the marker is missing", directory.marker)
    elif directory.marker.read_bytes() != MARKER_TEXT.encode():
        report.add("the marker is damaged", directory.marker)
    if not directory.catalog.is_file():
        report.add("the catalog is missing", directory.catalog)


@contextmanager
def _open(directory: Directory) -> Iterator[apsw.Connection]:
    load_checksums()
    connection = apsw.Connection(
        str(directory.catalog), flags=apsw.SQLITE_OPEN_READONLY, vfs=CHECKSUM_VFS
    )
    try:
        keep_log(connection, keep=True)
        connection.set_busy_timeout(10_000)
        connection.execute("BEGIN")
        yield connection
        connection.execute("COMMIT")
    finally:
        connection.close()


def _check_catalog(connection: apsw.Connection, directory: Directory, report: Report) -> None:
    where = directory.catalog
    version = connection.pragma("user_version")
    refuse_newer(version, where)
    if connection.pragma("application_id") != APPLICATION_ID or version == 0:
        report.add("the catalog is empty, or a database of another program", where)
        return
    if connection.reserve_bytes("main") != RESERVED_BYTES:
        report.add("the catalog's pages have no checksums", where)
        return
    for [problem] in connection.execute("PRAGMA integrity_check"):
        if problem != "ok":
            report.add(f"the catalog: {problem}", where)
    for table, row, parent, _ in connection.execute("PRAGMA foreign_key_check"):
        report.add(f"a row of {table} without its row of {parent}", f"{where}, row {row}")
    report.totals["catalog pages"] = connection.pragma("page_count")
    _check_log(connection, directory, report)


def _check_log(connection: apsw.Connection, directory: Directory, report: Report) -> None:
    snapshot = Snapshot(connection.cursor())
    for what, place in snapshot.run("check/orphans"):
        report.add(what, place)
    for group, topic, number, position, end in snapshot.run("check/positions"):
        report.add(
            f"group {group!r} is at offset {position} of {end}",
            f"topic {topic!r}, partition {number}",
        )
    for partition_id, segment_id, position in snapshot.run("check/overlaps"):
        report.add(
            "two frames share bytes",
            f"{directory.segment(partition_id, segment_id)}, position {position}",
        )
    schemas: dict[int, set[int]] = {}
    for schema_id, partition_id in snapshot.run("check/schemas"):
        schemas.setdefault(partition_id, set()).add(schema_id)
    missing: list[tuple[int, int, int]] = []
    partitions = [PartitionRow(*row) for row in snapshot.run("check/partitions")]
    for row in partitions:
        found = check_partition(connection, directory, row, schemas.get(row.id, set()))
        report.findings += [Finding(what, where) for what, where in found.problems]
        report.totals.update(found.totals)
        missing += found.missing
    report.totals["topics"] = len(snapshot.run("log/topics"))
    report.totals["partitions"] = len(partitions)
    _check_files(snapshot, directory, report)
    _check_missing(connection, directory, missing, report)


def _check_files(snapshot: Snapshot, directory: Directory, report: Report) -> None:
    known = {
        directory.segment(partition_id, segment_id)
        for segment_id, partition_id, _ in snapshot.run("log/segments_all")
    }
    if not directory.segments.is_dir():
        report.add("the folder of the segments is missing", directory.segments)
        return
    for path in sorted(directory.segments.rglob("*")):
        is_segment = path.suffix == ".frames" and path.stem.isdigit() and path.is_file()
        is_folder = path.is_dir() and path.parent == directory.segments and path.name.isdigit()
        if is_segment and path not in known:
            report.totals["left-over files"] += 1
        elif not is_segment and not is_folder:
            report.add("a file that millstream did not write", path)


def _check_missing(
    connection: apsw.Connection,
    directory: Directory,
    missing: list[tuple[int, int, int]],
    report: Report,
) -> None:
    """Look again, in a newer snapshot, for rows whose segment was not there: another process may have moved them."""
    if not missing:
        return
    connection.execute("COMMIT")
    connection.execute("BEGIN")
    snapshot = Snapshot(connection.cursor())
    for place in missing:
        if snapshot.run("check/frame_is_there", place):
            report.add(
                "a segment is missing",
                f"{directory.segment(place[0], place[2])}, offset {place[1]}",
            )
