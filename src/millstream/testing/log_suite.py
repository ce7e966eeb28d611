"""What every engine of the log must do: the contract of ``millstream.log.contract`` as tests.

An engine is finished when these pass. Subclass, give a pytest fixture ``world``, and run:

    class TestMyLog(TopicSuite, AppendSuite, ConsumerSuite, ProducerSuite, TransactionSuite):
        @pytest.fixture
        def world(self, tmp_path): ...

Topics and appends are here, groups, producers and transactions in ``log_clients_suite``. Offsets are compared by their
order only: an engine may need some for itself.
"""
# ruff: noqa: D102 - the names of the tests are the promises

from __future__ import annotations

from typing import Any, Protocol

import pyarrow as pa
import pytest

from millstream.log.contract import Consumer, ConsumerOptions, LogEngine
from millstream.log.definition import TopicInfo, topic_spec
from millstream.log.partitioner import partition_of
from millstream.primitives.duration import Duration, duration_us
from millstream.primitives.errors import (
    ConfigurationError,
    SchemaError,
    TopicExists,
    UnknownTopic,
)
from millstream.primitives.schema import us_datetime

SOON_S = 10.0
"""How long a test waits for what is about to happen; nothing waits that long when all is well."""


class LogWorld(Protocol):
    """A log, empty at first, and what a test needs beside it."""

    @property
    def engine(self) -> LogEngine:
        """The log."""
        ...

    def now_us(self) -> int:
        """Return the time as the log sees it."""
        ...

    def advance(self, duration: Duration) -> None:
        """Let time pass for the log."""
        ...

    def another(self) -> LogEngine:
        """Return the same log as another process sees it."""
        ...


def topic(world: LogWorld, name: str = "events", **changes: Any) -> TopicInfo:  # noqa: ANN401
    """Make a topic of (user, n), keyed by user, with three partitions."""
    settings: dict[str, Any] = {
        "schema": {"user": str, "n": int},
        "key": "user",
        "partitions": 3,
        "retention": None,
        "retention_bytes": None,
        "compaction": False,
    }
    return world.engine.create_topic(topic_spec(name, **{**settings, **changes}))


def events(*numbers: int) -> list[dict[str, Any]]:
    """Return these events, of five users."""
    return [{"user": f"user-{n % 5}", "n": n} for n in numbers]


def options(**changes: Any) -> ConsumerOptions:  # noqa: ANN401 - the fields of the options
    """Return options of a consumer that begins at the first event, ends at the last and commits when told."""
    settings: dict[str, Any] = {
        "start": "earliest",
        "follow": False,
        "auto_commit": False,
        "batch_events": 1_000,
        "batch_bytes": 1 << 20,
        "session_us": duration_us("10s"),
        "poll_interval_max_us": duration_us("5m"),
    }
    return ConsumerOptions(**{**settings, **changes})


def stored(engine: LogEngine, info: TopicInfo) -> list[list[int]]:
    """Return the numbers in each partition."""
    found: list[list[int]] = []
    for partition, (offset, end) in enumerate(engine.ends(info)):
        numbers: list[int] = []
        while offset < end:
            batch = engine.read(info, partition, offset, events_max=7, bytes_max=1 << 20)
            if batch is None:
                break
            assert batch.next_offset > offset
            numbers += [row["n"] for row in batch.to_pylist()]
            offset = batch.next_offset
        found.append(numbers)
    return found


def everything(engine: LogEngine, info: TopicInfo) -> list[int]:
    """Return all numbers, sorted."""
    return sorted(n for numbers in stored(engine, info) for n in numbers)


def drain(consumer: Consumer) -> list[int]:
    """Read to the end, and return the numbers in the order in which they came."""
    return [row["n"] for batch in consumer for row in batch.to_pylist()]


class TopicSuite:
    """Topics: made, found, changed, deleted."""

    def test_a_topic_is_found_by_its_name(self, world: LogWorld) -> None:
        made = topic(world)
        assert world.engine.topic("events") == made == world.another().topic("events")
        topic(world, "another")
        assert world.engine.topic_names() == ["another", "events"]

    def test_a_topic_that_is_declared_again_is_the_same(self, world: LogWorld) -> None:
        assert topic(world) == topic(world)

    def test_an_unknown_topic_is_refused_with_those_that_exist(self, world: LogWorld) -> None:
        topic(world)
        with pytest.raises(UnknownTopic, match="events"):
            world.engine.topic("event")

    @pytest.mark.parametrize(
        "changes", [{"partitions": 4}, {"key": "n"}, {"schema": {"user": str, "n": str}}]
    )
    def test_another_definition_is_refused(self, world: LogWorld, changes: dict[str, Any]) -> None:
        made = topic(world)
        with pytest.raises(TopicExists):
            topic(world, **changes)
        assert world.engine.topic("events") == made

    def test_a_column_may_be_added(self, world: LogWorld) -> None:
        narrow = topic(world)
        world.engine.append(narrow, events(1), partition=0)
        wide = topic(world, schema={"user": str, "n": int, "note": str | None})
        world.engine.append(wide, [{"user": "x", "n": 2, "note": "new"}], partition=0)
        world.engine.append(narrow, events(3), partition=0)
        batch = world.engine.read(wide, 0, 0, events_max=10, bytes_max=1 << 20)
        assert batch is not None
        assert [(row["n"], row["note"]) for row in batch.to_pylist()] == [
            (1, None),
            (2, "new"),
            (3, None),
        ]
        # Who declared it before the change goes on reading without the column.
        assert stored(world.engine, narrow)[0] == [1, 2, 3]

    def test_a_deleted_topic_is_gone_with_its_events_and_groups(self, world: LogWorld) -> None:
        old = topic(world)
        world.engine.append(old, events(*range(10)))
        with world.engine.consumer(old, "readers", options()) as consumer:
            drain(consumer)
            consumer.commit()
        world.engine.delete_topic("events")
        assert world.engine.topic_names() == []
        for work in (
            lambda: world.engine.append(old, events(1)),
            lambda: world.engine.ends(old),
            lambda: world.engine.read(old, 0, 0, events_max=1, bytes_max=1),
            lambda: world.engine.delete_topic("events"),
        ):
            with pytest.raises(UnknownTopic):
                work()
        new = topic(world)
        assert everything(world.engine, new) == []
        assert world.engine.lag(new) == {}


class AppendSuite:
    """Events go in and come out as they were, in order, all of a call or none."""

    def test_every_form_of_events_is_stored_as_it_is(self, world: LogWorld) -> None:
        import polars as pl

        info = topic(world)
        table = pa.table({"user": ["a"] * 3, "n": [3, 4, 5]})
        forms: list[Any] = [
            {"user": "a", "n": 0},
            events(1, 2),
            table,
            table.to_batches()[0].slice(1),
            pl.from_arrow(table),
            {"n": 9, "user": "b"},
        ]
        for form in forms:
            world.engine.append(info, form)
        assert everything(world.engine, info) == sorted([0, 1, 2, 3, 4, 5, 4, 5, 3, 4, 5, 9])

    def test_a_plain_topic_keeps_bytes_headers_and_time(self, world: LogWorld) -> None:
        info = topic(world, schema=None, partitions=1)
        full = {
            "key": b"\x00k",
            "value": b"\xff" * 40,
            "headers": [{"name": "trace", "value": b"1"}, {"name": "trace", "value": None}],
            "timestamp": us_datetime(1),
        }
        world.engine.append(info, [full, {"value": b"only"}, {"key": b"k", "value": None}])
        batch = world.engine.read(info, 0, 0, events_max=10, bytes_max=1 << 20)
        assert batch is not None
        empty = dict.fromkeys(("key", "value", "headers", "timestamp"))
        assert batch.to_pylist() == [full, {**empty, "value": b"only"}, {**empty, "key": b"k"}]

    def test_an_append_tells_where_its_events_are(self, world: LogWorld) -> None:
        info = topic(world)
        for call in range(3):
            for where in world.engine.append(info, events(*range(call * 20, call * 20 + 20))):
                assert where.topic == "events"
                batch = world.engine.read(
                    info, where.partition, where.first_offset, events_max=20, bytes_max=1 << 20
                )
                assert batch is not None
                assert batch.first_offset == where.first_offset
                assert batch.to_pylist()[0]["n"] // 20 == call

    def test_nothing_is_stored_for_nothing(self, world: LogWorld) -> None:
        info = topic(world)
        empty: list[Any] = [
            [],
            pa.table({"user": pa.array([], pa.string()), "n": pa.array([], pa.int64())}),
        ]
        for form in empty:
            assert world.engine.append(info, form) == []
        assert everything(world.engine, info) == []

    def test_a_key_chooses_the_partition_as_in_kafka(self, world: LogWorld) -> None:
        info = topic(world)
        world.engine.append(info, events(*range(40)))
        world.engine.append(info, pa.Table.from_pylist(events(*range(40, 80))))
        for n in range(80, 90):
            world.engine.append(info, events(n)[0])
        for partition, numbers in enumerate(stored(world.engine, info)):
            assert all(partition_of(f"user-{n % 5}", 3) == partition for n in numbers)
            for user in range(5):
                own = [n for n in numbers if n % 5 == user]
                assert own == sorted(own)

    def test_a_partition_may_be_chosen(self, world: LogWorld) -> None:
        info = topic(world)
        world.engine.append(info, events(*range(10)), partition=2)
        assert stored(world.engine, info) == [[], [], list(range(10))]
        for partition in (3, -1):
            with pytest.raises(ConfigurationError):
                world.engine.append(info, events(1), partition=partition)
            with pytest.raises(ConfigurationError):
                world.engine.read(info, partition, 0, events_max=1, bytes_max=1)

    @pytest.mark.parametrize(
        "bad",
        [
            {"user": "a"},
            {"user": "a", "n": "1"},
            {"user": "a", "n": None},
            {"user": "a", "n": 2**63},
            {"user": "a", "n": 1.5},
            {"user": "a", "n": 1, "m": 2},
            {"user": 5, "n": 1},
        ],
        ids=str,
    )
    def test_one_bad_event_refuses_the_whole_call(
        self, world: LogWorld, bad: dict[str, Any]
    ) -> None:
        info = topic(world)
        for count in (0, 3, 200):  # alone, among a few, among many
            with pytest.raises(SchemaError, match="events"):
                world.engine.append(info, [*events(*range(count)), bad])
        assert everything(world.engine, info) == []

    def test_reading_stops_at_the_limits_but_gives_at_least_one_event(
        self, world: LogWorld
    ) -> None:
        info = topic(world, partitions=1)
        for n in range(10):
            world.engine.append(info, events(n))
        world.engine.append(info, events(*range(10, 30)))
        for limit in (1, 3, 10, 17, 1_000):
            batch = world.engine.read(info, 0, 0, events_max=limit, bytes_max=1 << 20)
            assert batch is not None
            assert 1 <= len(batch) <= limit
        batch = world.engine.read(info, 0, 5, events_max=100, bytes_max=1)
        assert batch is not None
        assert len(batch) >= 1
        assert (
            world.engine.read(info, 0, world.engine.ends(info)[0][1], events_max=1, bytes_max=1)
            is None
        )
