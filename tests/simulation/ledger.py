"""What a test knows of the events it sent, and the comparison with what a store holds.

Events carry what is needed to see that one is torn: ``text`` follows from ``n``. A batch is what one
call stores: all of it or nothing. It is *begun* before the call and *acknowledged* after it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from millstream.engines.local.log import LocalLog
from millstream.log.definition import TopicInfo, TopicSpec, topic_spec
from millstream.store import Store
from millstream.store.check import check
from millstream.testing.unsynced import UnsyncedDisk

SMALL, LARGE = 20, 40_000
SOURCE_EVENTS = 100_000
"""How many numbers belong to one sender."""


def spec(name: str = "events", *, partitions: int = 2, **options: Any) -> TopicSpec:
    """Return the definition of the topic that all these tests use."""
    settings: dict[str, Any] = {"retention": None, "retention_bytes": None, "compaction": False}
    return topic_spec(
        name,
        schema={"key": str, "n": int, "text": str},
        key="key",
        partitions=partitions,
        **{**settings, **options},
    )


def text_of(n: int) -> str:
    """Return the text of event ``n``: every fifth is large enough for a segment, whatever the durability."""
    return f"{n}:" + chr(97 + n % 26) * (LARGE if n % 5 == 4 else SMALL)


def source_of(n: int) -> int:
    """Return which thread or process sends event ``n``: each sends its own in ascending order."""
    return n // SOURCE_EVENTS


def event(n: int, *, keys: int = 7) -> dict[str, Any]:
    """Return event ``n``."""
    return {"key": f"key-{n % keys}", "n": n, "text": text_of(n)}


def events(numbers: Sequence[int], *, keys: int = 7) -> list[dict[str, Any]]:
    """Return these events."""
    return [event(n, keys=keys) for n in numbers]


def read_partition(log: LocalLog, info: TopicInfo, number: int) -> list[tuple[int, dict[str, Any]]]:
    """Return (offset, event) of all that one partition holds, in order."""
    offset, end = log.ends(info)[number]
    found: list[tuple[int, dict[str, Any]]] = []
    while offset < end:
        batch = log.read(info, number, offset)
        assert batch is not None, f"nothing at {offset}, and the end is {end}"
        assert batch.next_offset > offset
        found += zip(batch.offsets().tolist(), batch.to_pylist(), strict=True)
        offset = batch.next_offset
    return found


@dataclass
class Ledger:
    """What was begun and acknowledged, from the reports of a process."""

    begun: list[tuple[int, ...]] = field(default_factory=list)
    acknowledged: list[tuple[int, ...]] = field(default_factory=list)

    @classmethod
    def of(cls, reports: Sequence[Any]) -> Ledger:
        """Sort ("begin", numbers) from ("ack", numbers); other reports are left out."""
        ledger = cls()
        for report in reports:
            if report[0] == "begin":
                ledger.begun.append(tuple(report[1]))
            elif report[0] == "ack":
                ledger.acknowledged.append(tuple(report[1]))
        return ledger

    def __add__(self, later: Ledger) -> Ledger:
        """Return what both know."""
        return Ledger(self.begun + later.begun, self.acknowledged + later.acknowledged)

    @property
    def numbers(self) -> set[int]:
        """All that is acknowledged."""
        return {n for batch in self.acknowledged for n in batch}

    def verify_prefix(self, per_partition: Sequence[Sequence[int]]) -> None:
        """Look that only the last of what one sender sent is missing."""
        present = {n for numbers in per_partition for n in numbers}
        for source in {source_of(batch[0]) for batch in self.begun}:
            sent = [batch for batch in self.begun if source_of(batch[0]) == source]
            there = [bool(present.intersection(batch)) for batch in sent]
            assert there == sorted(there, reverse=True), f"lost in the middle: {there}"

    def verify_numbers(self, per_partition: Sequence[Sequence[int]]) -> None:
        """Compare with the numbers that each partition holds."""
        found = [n for numbers in per_partition for n in numbers]
        present = set(found)
        twice = sorted(n for n, count in Counter(found).items() if count > 1)
        assert not twice, f"stored twice: {twice}"
        lost = sorted(self.numbers - present)
        assert not lost, f"acknowledged and lost: {lost}"
        known = {n for batch in self.begun for n in batch}
        assert present <= known, f"never sent: {sorted(present - known)}"
        for batch in self.begun:
            share = present.intersection(batch)
            assert share in (set(), set(batch)), f"half of a batch: {sorted(share)} of {batch}"
        for numbers in per_partition:
            for source in {source_of(n) for n in numbers}:
                own = [n for n in numbers if source_of(n) == source]
                assert own == sorted(own), f"out of order: {own}"


def stored(log: LocalLog, name: str = "events") -> list[list[int]]:
    """Return the numbers in each partition of a topic, after a look at every event."""
    info = log.topic(name)
    result = []
    for number in range(info.partitions):
        rows = read_partition(log, info, number)
        for offset, row in rows:
            assert row["text"] == text_of(row["n"]), f"a torn event at offset {offset}"
        result.append([row["n"] for _, row in rows])
    return result


@contextmanager
def opened(path: Path) -> Iterator[LocalLog]:
    """Open a store without background work; close it, and verify all its checksums."""
    with Store.open(path, disk=UnsyncedDisk()) as store:
        log = LocalLog(store)
        store.duty.stop()
        yield log
        log.close()
    assert check(path) == []


def verify(path: Path, ledger: Ledger) -> None:
    """Open a store after a crash, compare it with the ledger, write to it, and verify all its checksums."""
    with opened(path) as log:
        verify_open(log, ledger)
        # What crashed must not keep anybody from going on.
        info = log.create_topic(spec("after"))
        log.append(info, events(range(10)))
        assert sorted(n for p in stored(log, "after") for n in p) == list(range(10))


def verify_open(log: LocalLog, ledger: Ledger) -> None:
    """Compare the topic of a store that is open with the ledger."""
    is_there = "events" in log.topic_names()
    assert is_there or not ledger.acknowledged, "the topic is gone"
    ledger.verify_numbers(stored(log) if is_there else [])
