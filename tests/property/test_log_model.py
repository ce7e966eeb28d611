"""The log against a plain list: any sequence of appends, transactions, reads, commits, rebalances and background work.

The model is what a user has been told. After every step the log must hold exactly that, with the same offsets.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from millstream.engines.local import upkeep
from millstream.engines.local.consumer import LocalConsumer
from millstream.engines.local.log import LocalLog
from millstream.log.definition import TopicInfo
from millstream.log.partitioner import partition_of
from millstream.primitives.errors import Fenced, SchemaError
from millstream.store import Store, segment
from millstream.store.check import check
from millstream.testing.clock import VirtualClock
from millstream.testing.log_suite import options
from tests.log_kit import make, read_rows

PARTITIONS = 2
TOPICS = ("kept", "compacted", "retained")
GROUPS = ("one", "two")
RETENTION_US = 60_000_000

# Events without a key go anywhere, but together: one kind a call keeps the model simple.
some_keys = st.one_of(
    st.lists(st.sampled_from("abcd"), min_size=1, max_size=25),
    st.lists(st.none(), min_size=1, max_size=4),
)
topics = st.sampled_from(TOPICS)
groups = st.sampled_from(GROUPS)

Row = tuple[int, int, dict[str, Any]]


@dataclass
class Partition:
    """What one partition holds: (offset, time of the append, event)."""

    rows: list[Row] = field(default_factory=list)
    end: int = 0


class LogMachine(RuleBasedStateMachine):
    """A store, and what it must hold."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.limits = (upkeep.MERGE_FRAMES_MIN, segment.SEGMENT_BYTES_MAX)
        upkeep.MERGE_FRAMES_MIN, segment.SEGMENT_BYTES_MAX = 3, 20_000
        self.clock = VirtualClock()
        self.count = 0
        self.model = {name: [Partition() for _ in range(PARTITIONS)] for name in TOPICS}
        self.places: dict[tuple[str, str], list[int]] = {}
        self.members: list[tuple[str, str, LocalConsumer]] = []

    @initialize()
    def begin(self) -> None:
        self.open()
        self.join("compacted", "one")

    def open(self) -> None:
        self.store = Store.open(self.folder / "log.mill", durability="process", clock=self.clock)
        self.log = LocalLog(self.store)
        self.store.duty.stop()
        schema = {"k": str | None, "n": int, "data": bytes}
        self.info: dict[str, TopicInfo] = {
            name: make(
                self.log,
                name,
                schema=schema,
                key="k",
                partitions=PARTITIONS,
                compaction=name == "compacted",
                retention="60s" if name == "retained" else None,
            )
            for name in TOPICS
        }

    def teardown(self) -> None:
        upkeep.MERGE_FRAMES_MIN, segment.SEGMENT_BYTES_MAX = self.limits
        if hasattr(self, "log"):
            self.log.close()
            self.store.close()
            assert check(self.folder / "log.mill") == []
        shutil.rmtree(self.folder)

    # ---- appending --------------------------------------------------------------------------

    def events(self, some: list[str | None], *, large: bool) -> list[dict[str, Any]]:
        made = []
        for key in some:
            made.append({"k": key, "n": self.count, "data": b"x" * (3_000 if large else 3)})
            self.count += 1
        return made

    def expect(self, topic: str, events: list[dict[str, Any]], appended: list[Any]) -> None:
        """Note where the log says that it stored these events; those of one partition keep their order."""
        left = list(events)
        for where in appended:
            partition = self.model[topic][where.partition]
            assert where.first_offset == partition.end
            for offset in range(where.first_offset, where.next_offset):
                event = next(e for e in left if e["k"] is None or self.home(e) == where.partition)
                left.remove(event)
                partition.rows.append((offset, self.clock.now_us(), event))
            partition.end = where.next_offset
        assert not left

    @staticmethod
    def home(event: dict[str, Any]) -> int:
        return partition_of(event["k"], PARTITIONS)

    @rule(some=some_keys, large=st.booleans(), form=st.sampled_from(["list", "table", "single"]))
    def append(self, some: list[str | None], large: bool, form: str) -> None:
        """To all topics: what they keep of it differs."""
        for topic, info in self.info.items():
            events = self.events(some, large=large)
            if form == "single":
                for event in events:
                    self.expect(topic, [event], self.log.append(info, event))
            else:
                table = pa.Table.from_pylist(events, schema=info.schema)
                self.expect(
                    topic, events, self.log.append(info, events if form == "list" else table)
                )

    @rule(topic=topics, some=some_keys)
    def append_what_does_not_fit(self, topic: str, some: list[str | None]) -> None:
        assert self.log.append(self.info[topic], []) == []
        events: list[dict[str, Any]] = [*self.events(some, large=False), {"k": "a", "n": 1.5}]
        try:
            self.log.append(self.info[topic], events)
        except SchemaError:
            return
        raise AssertionError("a wrong event was stored")

    # ---- groups -----------------------------------------------------------------------------

    def place(self, topic: str, group: str) -> list[int]:
        return self.places.setdefault((topic, group), [0] * PARTITIONS)

    @rule(topic=topics, group=groups)
    @precondition(lambda self: len(self.members) < 5)
    def join(self, topic: str, group: str) -> None:
        consumer = self.log.consumer(self.info[topic], group, options(follow=True, batch_events=7))
        self.place(topic, group)
        self.members.append((topic, group, consumer))

    @rule(data=st.data())
    @precondition(lambda self: self.members)
    def leave(self, data: st.DataObject) -> None:
        _, _, consumer = self.members.pop(data.draw(st.integers(0, len(self.members) - 1)))
        consumer.close()

    @rule(data=st.data(), batches=st.integers(1, 4), commits=st.booleans(), forward=st.booleans())
    @precondition(lambda self: self.members)
    def read(self, data: st.DataObject, batches: int, commits: bool, forward: bool) -> None:
        member = self.members[data.draw(st.integers(0, len(self.members) - 1))]
        for _ in range(batches):
            self.read_one(member, commits=commits, forward=forward)

    def read_one(
        self, member: tuple[str, str, LocalConsumer], *, commits: bool, forward: bool
    ) -> None:
        """One batch: it is what lies behind the last, and committed alone, together with an append, or not at all."""
        topic, group, consumer = member
        consumer._next_look_s = 0.0
        batch = consumer.poll(0)
        if batch is None:
            return
        partition = self.model[topic][batch.partition]
        seen = list(
            zip(
                batch.offsets().tolist(),
                batch.appended_us().tolist(),
                batch.to_pylist(),
                strict=True,
            )
        )
        wanted = [r for r in partition.rows if batch.first_offset <= r[0] < batch.next_offset]
        assert seen == wanted
        delivered = dict(consumer._delivered)
        if forward:
            transaction = self.log.transaction()
            copies = self.events(["a"] * len(seen), large=False)
            if copies:
                transaction.append(self.info["kept"], copies)
            transaction.commit(consumer)
            try:
                appended = transaction.finish()
            except Fenced:
                return
            if copies:
                self.expect("kept", copies, appended)
        elif commits:
            try:
                consumer.commit()
            except Fenced:
                return
        if forward or commits:
            for number, position in delivered.items():
                self.place(topic, group)[number] = position

    # ---- background work, time, processes ---------------------------------------------------

    @rule(chore=st.sampled_from(["merge", "compact", "retain", "sweep", "checkpoint"]))
    def work(self, chore: str) -> None:
        getattr(self, chore)()
        self.log.upkeep.sweep()

    def merge(self) -> None:
        while self.log.upkeep.merge():
            continue

    def compact(self) -> None:
        for partition in self.log.upkeep._partitions():
            if partition.compaction:
                self.log.upkeep.compact_partition(partition)
        for part in self.model["compacted"]:
            last = {row["k"]: offset for offset, _, row in part.rows}
            part.rows = [r for r in part.rows if r[2]["k"] is None or last[r[2]["k"]] == r[0]]

    @rule(seconds=st.integers(1, 50))
    def wait(self, seconds: int) -> None:
        self.clock.advance(f"{seconds}s")
        for _, _, consumer in self.members:
            consumer.heartbeat()

    def retain(self) -> None:
        self.log.upkeep.retain()
        oldest_us = self.clock.now_us() - RETENTION_US
        for part, (first, _) in zip(
            self.model["retained"], self.log.ends(self.info["retained"]), strict=True
        ):
            gone = [row for row in part.rows if row[0] < first]
            assert all(us < oldest_us for _, us, _ in gone), "deleted too early"
            part.rows = part.rows[len(gone) :]

    def sweep(self) -> None:
        self.log.upkeep.sweep()

    def checkpoint(self) -> None:
        self.log.upkeep.checkpoint()

    @rule()
    def reopen(self) -> None:
        self.log.close()
        self.store.close()
        self.members.clear()
        self.open()

    # ---- what always holds ------------------------------------------------------------------

    @invariant()
    def everything_is_there(self) -> None:
        for topic, parts in self.model.items():
            info = self.info[topic]
            for number, part in enumerate(parts):
                assert read_rows(self.log, info, number) == part.rows
            assert [end for _, end in self.log.ends(info)] == [part.end for part in parts]

    @invariant()
    def places_are_as_committed(self) -> None:
        for (topic, group), positions in self.places.items():
            firsts = [first for first, _ in self.log.ends(self.info[topic])]
            wanted = [max(pair) for pair in zip(positions, firsts, strict=True)]
            assert [one.position for one in self.log.lag(self.info[topic])[group]] == wanted


TestLog = LogMachine.TestCase
TestLog.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
