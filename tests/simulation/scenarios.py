"""What processes do while they are killed: one function for each kind of work.

They run in processes of their own. Each takes ``report`` and a path, says ("begin", numbers) before a
call and ("ack", numbers) behind it. Background work runs only where the scenario calls for it, so that
a run reaches the same steps every time.
"""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

from millstream.engines.local import upkeep
from millstream.engines.local.log import LocalLog
from millstream.log.batching import batching_policy
from millstream.log.contract import ConsumerOptions
from millstream.primitives.duration import duration_us
from millstream.store import Store, catalog, recovery, segment
from millstream.store.disk import Disk
from millstream.testing.crash import Report
from millstream.testing.trace import TraceDisk
from millstream.testing.unsynced import UnsyncedDisk
from tests.simulation.ledger import SOURCE_EVENTS, event, events, spec

SEGMENT_BYTES = 150_000
_disk: Disk = UnsyncedDisk()
_forced = ""


def options(**changes: Any) -> ConsumerOptions:
    """Return the options of a consumer that starts at the beginning and stops at the end."""
    settings: dict[str, Any] = {
        "start": "earliest",
        "follow": False,
        "auto_commit": False,
        "batch_events": 1_000_000,
        "batch_bytes": 1 << 24,
        "session_us": duration_us("10s"),
        "poll_interval_max_us": duration_us("5m"),
    }
    return ConsumerOptions(**{**settings, **changes})


def open_log(path: Path, durability: str = "disk") -> tuple[Store, LocalLog]:
    """Open a store with small segments and without background work."""
    segment.SEGMENT_BYTES_MAX = SEGMENT_BYTES
    store = Store.open(path, durability=_forced or durability, disk=_disk)
    log = LocalLog(store)
    store.duty.stop()
    return store, log


def traced(report: Report, scenario: str, path: Path, durability: str) -> None:
    """Run a scenario with this durability, and report its reports and all writes and syncs at the end."""
    global _disk, _forced
    disk = TraceDisk(path)
    _disk, _forced = disk, durability
    globals()[scenario](disk.note, path)
    report(disk.operations)


def send(report: Report, log: LocalLog, numbers: range, topic: str = "events") -> None:
    """Append one batch."""
    report(("begin", list(numbers)))
    log.append(log.topic(topic), events(numbers))
    report(("ack", list(numbers)))


def append(report: Report, path: Path) -> None:
    """Single events and batches, small ones and large ones, over several segments."""
    store, log = open_log(path)
    log.create_topic(spec())
    for start in range(0, 12):
        send(report, log, range(start, start + 1))
    for start in range(20, 80, 20):
        send(report, log, range(start, start + 20))
    log.close()
    store.close()


def append_process(report: Report, path: Path) -> None:
    """The same without syncs: what ``kill -9`` leaves."""
    store, log = open_log(path, "process")
    log.create_topic(spec())
    for start in range(0, 40, 4):
        send(report, log, range(start, start + 4))
    store.close()


def append_small(report: Report, path: Path) -> None:
    """Appends that lie in the catalog, whatever the durability."""
    store, log = open_log(path)
    log.create_topic(spec())
    for start in range(0, 60, 5):
        send(report, log, range(start, start + 4))
        if start % 20 == 15:
            log.upkeep.checkpoint()
    store.close()


def group_commit(report: Report, path: Path) -> None:
    """Four threads whose commits share syncs."""
    store, log = open_log(path)
    log.create_topic(spec())
    lock = threading.Lock()

    def tell(value: object) -> None:
        with lock:
            report(value)

    def work(first: int) -> None:
        for start in range(first, first + 40, 4):
            send(tell, log, range(start, start + 4))

    threads = [threading.Thread(target=work, args=(SOURCE_EVENTS * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.close()


def transaction(report: Report, path: Path) -> None:
    """Events move from one topic to two others, together with the consumer's position."""
    store, log = open_log(path)
    source = log.create_topic(spec("source"))
    left, right = log.create_topic(spec("left")), log.create_topic(spec("right"))
    log.append(source, events(range(30)))
    consumer = log.consumer(source, "mover", options(batch_events=5))
    while (batch := consumer.poll(0)) is not None:
        rows = batch.to_pylist()
        numbers = [row["n"] for row in rows]
        tx = log.transaction()
        tx.append(left, rows)
        tx.append(right, events([n + 5_000 for n in numbers]))
        tx.commit(consumer)
        tx.finish()
        report(("moved", numbers))
    log.close()
    store.close()


def rebalance(report: Report, path: Path) -> None:
    """Members come, read, commit and go."""
    store, log = open_log(path)
    info = log.create_topic(spec(partitions=4))
    for start in range(0, 40, 10):
        send(report, log, range(start, start + 10))
    first = log.consumer(info, "readers", options(batch_events=3))
    _read(report, first, 3)
    second = log.consumer(info, "readers", options(batch_events=3))
    for _ in range(3):
        _read(report, first, 1)
        _read(report, second, 1)
    first.close()
    _read(report, second, 100)
    second.close()
    store.close()


def _read(report: Report, consumer: Any, batches: int) -> None:
    for _ in range(batches):
        # A change of the group is looked for now, and not half a second later.
        consumer._next_look_s = 0.0
        batch = consumer.poll(0)
        if batch is None:
            return
        report(("delivered", [row["n"] for row in batch.to_pylist()]))
        consumer.commit()
        report(("committed", [row["n"] for row in batch.to_pylist()]))


def retention(report: Report, path: Path) -> None:
    """Old events are deleted while new ones come, and their segments removed."""
    store, log = open_log(path)
    log.create_topic(spec(retention_bytes=100_000))
    for start in range(0, 60, 10):
        send(report, log, range(start, start + 10))
        log.upkeep.retain()
        log.upkeep.sweep()
    store.close()


def merge(report: Report, path: Path) -> None:
    """Small frames become large ones, twice, and their old segments go."""
    upkeep.MERGE_FRAMES_MIN = 4
    store, log = open_log(path, "disk")
    log.create_topic(spec())
    for start in range(0, 40, 2):
        send(report, log, range(start, start + 2))
        if start % 16 == 14:
            while log.upkeep.merge():
                continue
            log.upkeep.sweep()
    store.close()


def merge_without_syncs(report: Report, path: Path) -> None:
    """What was acknowledged with syncs is merged by a process that makes none, and another one dies of it."""
    upkeep.MERGE_FRAMES_MIN = 4
    store, log = open_log(path, "disk")
    log.create_topic(spec())
    for start in range(0, 24, 2):
        send(report, log, range(start, start + 2))
    log.close()
    store.close()
    for _ in range(2):
        store, log = open_log(path, "process")
        while log.upkeep.merge():
            continue
        log.upkeep.sweep()
        log.upkeep.checkpoint()
        log.close()
        store.close()


def compaction(report: Report, path: Path) -> None:
    """Only the last event of each key stays."""
    upkeep._COMPACT_EVENTS_MIN = 10
    store, log = open_log(path)
    log.create_topic(spec(compaction=True))
    for start in range(0, 60, 10):
        send(report, log, range(start, start + 10))
        if start % 20 == 10:
            log.upkeep.compact()
            log.upkeep.sweep()
    store.close()


def checkpoint(report: Report, path: Path) -> None:
    """The write-ahead log is folded back again and again."""
    recovery.CATALOG_CHECKPOINT_PAGES = 1
    store, log = open_log(path)
    log.create_topic(spec())
    for start in range(0, 40, 4):
        send(report, log, range(start, start + 4))
        log.upkeep.checkpoint()
    store.close()


def delete_topic(report: Report, path: Path) -> None:
    """A topic goes with its groups, another stays."""
    store, log = open_log(path)
    log.create_topic(spec())
    victim = log.create_topic(spec("victim"))
    for start in range(0, 20, 5):
        send(report, log, range(start, start + 5))
        log.append(victim, events(range(5)))
    consumer = log.consumer(victim, "readers", options())
    consumer.poll(0)
    consumer.close()
    log.delete_topic("victim")
    report(("deleted", []))
    log.upkeep.sweep()
    send(report, log, range(100, 110))
    store.close()


def reopen(report: Report, path: Path) -> None:
    """What opening repairs after another process died."""
    store, log = open_log(path)
    if "events" in log.topic_names():
        send(report, log, range(900, 905))
    store.close()


def producers(report: Report, path: Path) -> None:
    """A named producer numbers its events and sends each twice."""
    store, log = open_log(path)
    info = log.create_topic(spec())
    with log.producer("source", batching_policy(linger="1ms", batch_events=4)) as producer:
        for n in range(12):
            report(("begin", [n]))
            for _ in range(2):
                producer.send(info, event(n), sequence=n).result()
            report(("ack", [n]))
    store.close()


def old_store(report: Report, path: Path, version: int, closed: bool) -> None:
    """Make a store as a library of that format version left it: closed, or killed."""
    known = catalog.migrations()[:version]
    vars(catalog)["migrations"] = lambda: known
    append(report, path)
    if not closed:
        _, log = open_log(path)
        send(report, log, range(200, 210))
        report(("killed", []))
        os.kill(os.getpid(), signal.SIGKILL)


def open_only(report: Report, path: Path) -> None:
    """Open a store and close it."""
    store, _ = open_log(path)
    report(("opened", []))
    store.close()


def open_twice(report: Report, path: Path) -> None:
    """Append, close, and open once more."""
    store, log = open_log(path)
    log.create_topic(spec())
    send(report, log, range(4))
    log.close()
    store.close()
    report(("closed", []))
    open_only(report, path)
