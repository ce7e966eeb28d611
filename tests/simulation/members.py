"""Processes that read, write, freeze and die together: what each of them does.

Members follow their topic and never end by themselves. Each looks at the committed positions before it
asks for events: what was committed by then must not be delivered any more, to anybody.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import apsw

from millstream.engines.local import log as local_log
from millstream.engines.local.log import LocalLog
from millstream.log.batching import batching_policy
from millstream.log.definition import TopicInfo
from millstream.primitives.duration import duration_us
from millstream.primitives.errors import Fenced
from millstream.store.catalog import CHECKSUM_VFS, load_checksums
from millstream.testing.crash import Report
from tests.simulation.ledger import event, events
from tests.simulation.scenarios import open_log, options

GROUP = "readers"
SESSION = "3s"

WATCH = """
CREATE TABLE position_history (
    partition_id INTEGER, before INTEGER, after INTEGER, owner TEXT, epoch INTEGER
);
CREATE TRIGGER position_watch AFTER UPDATE OF position ON group_partition BEGIN
    INSERT INTO position_history VALUES (new.partition_id, old.position, new.position, new.owner, new.epoch);
END;
"""


def watch_positions(path: Path) -> None:
    """Let the catalog itself keep each change of a committed position, in the order of the commits."""
    with _catalog(path) as connection:
        connection.execute(WATCH)


def position_history(path: Path) -> dict[int, list[tuple[int | None, int]]]:
    """Return (before, after) of each change, by the partition's id."""
    found: dict[int, list[tuple[int | None, int]]] = {}
    with _catalog(path) as connection:
        rows = connection.execute(
            "SELECT partition_id, before, after FROM position_history ORDER BY rowid"
        ).fetchall()
    for partition_id, before, after in rows:
        found.setdefault(partition_id, []).append((before, after))
    return found


def _catalog(path: Path) -> apsw.Connection:
    load_checksums()
    connection = apsw.Connection(str(path / "catalog.db"), vfs=CHECKSUM_VFS)
    connection.set_busy_timeout(30_000)
    return connection


def committed(log: LocalLog, info: TopicInfo) -> dict[int, int]:
    """Return where the group stands in each partition."""
    return {lag.partition: lag.position for lag in log.lag(info).get(GROUP, [])}


class Member:
    """One member of the group in this process."""

    def __init__(self, report: Report, path: Path, **changes: Any) -> None:
        local_log._HEARTBEAT_EVERY_S = 0.2
        self.report = report
        self.store, self.log = open_log(path)
        self.info = self.log.topic("events")
        settings = {
            "follow": True,
            "batch_events": 7,
            "session_us": duration_us(SESSION),
            **changes,
        }
        self.consumer = self.log.consumer(self.info, GROUP, options(**settings))
        report(("joined", os.getpid()))

    def read(self) -> list[int]:
        """Wait for a batch and tell which events came."""
        before = committed(self.log, self.info)
        batch = self.consumer.poll(None)
        assert batch is not None
        assert batch.first_offset >= before.get(batch.partition, 0), "delivered after its commit"
        numbers = [row["n"] for row in batch.to_pylist()]
        self.report(("delivered", numbers))
        return numbers

    def commit(self, numbers: list[int]) -> None:
        """Commit and tell, also if it was refused."""
        try:
            self.consumer.commit()
        except Fenced:
            self.report(("fenced", numbers))
        else:
            self.report(("committed", numbers))

    def freeze(self) -> None:
        """Stop this process as SIGSTOP does, but never while it holds a lock."""
        self.log._closing.set()
        assert self.log._heartbeat is not None
        self.log._heartbeat.join()
        self.report(("freezing", os.getpid()))
        os.kill(os.getpid(), signal.SIGSTOP)
        self.report(("thawed", os.getpid()))


def read_for_ever(report: Report, path: Path) -> None:
    """Read and commit until killed."""
    member = Member(report, path)
    while True:
        member.commit(member.read())


def freeze_and_go_on(report: Report, path: Path) -> None:
    """Read, freeze before the commit, commit too late, and read on until killed."""
    member = Member(report, path)
    numbers = member.read()
    member.freeze()
    member.commit(numbers)
    while True:
        member.commit(member.read())


def move_for_ever(report: Report, path: Path) -> None:
    """Move what comes to another topic, with the position in one transaction, until killed."""
    member = Member(report, path)
    target = member.log.topic("moved")
    while True:
        numbers = member.read()
        transaction = member.log.transaction()
        transaction.append(target, events(numbers))
        transaction.commit(member.consumer)
        try:
            transaction.finish()
        except Fenced:
            report(("fenced", numbers))
        else:
            report(("committed", numbers))


def append_for_ever(report: Report, path: Path, first: int) -> None:
    """Append small and large batches until killed."""
    _, log = open_log(path)
    info, start = log.topic("events"), first
    while True:
        size = 1 + start % 6
        numbers = list(range(start, start + size))
        report(("begin", numbers))
        log.append(info, events(numbers))
        report(("ack", numbers))
        start += size


def send_for_ever(report: Report, path: Path, first: int) -> None:
    """Send the same numbered events from the first on, under a name, until killed."""
    _, log = open_log(path)
    info = log.topic("events")
    producer = log.producer(f"source-{first}", batching_policy(linger="0ms", batch_events=3))
    start = first
    while True:
        numbers = range(start, start + 4)
        for n in numbers:
            report(("begin", [n]))
        for sent in [(n, producer.send(info, event(n), sequence=n)) for n in numbers]:
            sent[1].result()
            report(("ack", [sent[0]]))
        start += 4
