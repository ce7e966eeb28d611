"""What every engine of the log must do, second part: groups, producers, transactions. See ``log_suite``."""
# ruff: noqa: D102 - the names of the tests are the promises

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from millstream.log.batching import batching_policy
from millstream.log.contract import Consumer
from millstream.log.definition import TopicInfo
from millstream.primitives.errors import Fenced, MillstreamError, SchemaError
from millstream.primitives.schema import us_datetime
from millstream.testing.log_suite import (
    SOON_S,
    LogWorld,
    drain,
    events,
    everything,
    options,
    stored,
    topic,
)


class ConsumerSuite:
    """Groups: each at its own place, each event once while nobody dies."""

    def test_each_group_is_at_its_own_place(self, world: LogWorld) -> None:
        info = topic(world)
        world.engine.append(info, events(*range(20)))
        with world.engine.consumer(info, "all", options()) as consumer:
            assert sorted(drain(consumer)) == list(range(20))
            consumer.commit()
        first = world.engine.consumer(info, "some", options(batch_events=2))
        batch = first.poll(SOON_S)
        assert batch is not None
        first.commit()
        first.close()
        lag = world.engine.lag(info)
        assert sum(one.events for one in lag["all"]) == 0
        assert sum(one.events for one in lag["some"]) == 20 - len(batch)

    def test_a_committed_place_is_where_the_next_member_begins(self, world: LogWorld) -> None:
        info = topic(world)
        world.engine.append(info, events(*range(30)))
        seen: list[int] = []
        while True:
            with world.another().consumer(info, "readers", options(batch_events=4)) as consumer:
                batch = consumer.poll(SOON_S)
                if batch is None:
                    break
                seen += [row["n"] for row in batch.to_pylist()]
                consumer.commit()
        assert sorted(seen) == list(range(30))

    def test_what_was_not_committed_comes_again(self, world: LogWorld) -> None:
        info = topic(world)
        world.engine.append(info, events(*range(10)))
        for _ in range(2):
            with world.engine.consumer(info, "readers", options()) as consumer:
                assert sorted(drain(consumer)) == list(range(10))

    def test_asking_for_more_commits_what_was_delivered(self, world: LogWorld) -> None:
        info = topic(world, partitions=1)
        world.engine.append(info, events(*range(6)))
        consumer = world.engine.consumer(info, "readers", options(auto_commit=True, batch_events=3))
        consumer.poll(SOON_S)
        consumer.poll(SOON_S)
        consumer.close()  # as if it failed at its second batch: that one comes again
        with world.engine.consumer(info, "readers", options()) as again:
            assert drain(again) == [3, 4, 5]

    def test_leaving_in_order_commits_and_leaving_by_an_error_does_not(
        self, world: LogWorld
    ) -> None:
        info = topic(world, partitions=1)
        world.engine.append(info, events(1, 2))
        broken = world.engine.consumer(info, "readers", options(auto_commit=True))
        broken.poll(SOON_S)
        broken.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
        with world.engine.consumer(info, "readers", options(auto_commit=True)) as consumer:
            assert consumer.poll(SOON_S) is not None
        with world.engine.consumer(info, "readers", options()) as consumer:
            assert drain(consumer) == []

    def test_a_group_begins_where_it_is_told(self, world: LogWorld) -> None:
        info = topic(world, partitions=1)
        world.engine.append(info, events(0, 1))
        world.advance("1s")
        middle = us_datetime(world.now_us())
        world.engine.append(info, events(2, 3))
        world.advance("1s")
        world.engine.append(info, events(4))
        begins: dict[str, Any] = {
            "earliest": "earliest",
            "latest": "latest",
            "offset": world.engine.ends(info)[0][0] + 1,
            "time": middle,
            "long ago": middle - timedelta(days=1),
            "later": us_datetime(world.now_us()) + timedelta(days=1),
        }
        consumers = {
            name: world.engine.consumer(info, name, options(start=start))
            for name, start in begins.items()
        }
        world.engine.append(info, events(5))
        found = {name: drain(consumer) for name, consumer in consumers.items()}
        assert found == {
            "earliest": [0, 1, 2, 3, 4, 5],
            "latest": [5],
            "offset": [1, 2, 3, 4, 5],
            "time": [2, 3, 4, 5],
            "long ago": [0, 1, 2, 3, 4, 5],
            "later": [5],
        }
        for consumer in consumers.values():
            consumer.close()

    def test_a_group_that_has_a_place_keeps_it_whatever_start_says(self, world: LogWorld) -> None:
        info = topic(world, partitions=1)
        world.engine.append(info, events(0, 1))
        with world.engine.consumer(info, "readers", options(start="latest")) as consumer:
            assert drain(consumer) == []
        world.engine.append(info, events(2))
        with world.engine.consumer(info, "readers", options(start="earliest")) as consumer:
            assert drain(consumer) == [2]

    def test_single_events_come_as_dicts(self, world: LogWorld) -> None:
        info = topic(world)
        world.engine.append(info, events(*range(5)))
        with world.engine.consumer(info, "readers", options()) as consumer:
            assert sorted(consumer.events(), key=lambda row: row["n"]) == events(*range(5))

    def test_batches_come_in_an_event_loop(self, world: LogWorld) -> None:
        info = topic(world)
        world.engine.append(info, events(*range(20)))

        async def read(group: str) -> list[int]:
            found: list[int] = []
            async for batch in world.engine.consumer(info, group, options(batch_events=3)):
                found += [row["n"] for row in batch.to_pylist()]
            return found

        async def both() -> list[list[int]]:
            return list(await asyncio.gather(read("one"), read("two")))

        assert [sorted(found) for found in asyncio.run(both())] == [list(range(20))] * 2

    def test_members_of_a_group_share_the_partitions(self, world: LogWorld) -> None:
        info = topic(world)
        members = [world.engine.consumer(info, "readers", options(follow=True)) for _ in range(3)]
        for member in members:
            assert member.poll(0) is None
        world.engine.append(info, events(*range(5)))
        per_partition = [set(numbers) for numbers in stored(world.engine, info)]
        seen: list[set[int]] = []
        for member in members:
            found: set[int] = set()
            while (batch := member.poll(0)) is not None:
                found |= {row["n"] for row in batch.to_pylist()}
                member.commit()
            seen.append(found)
        assert sorted(map(sorted, seen)) == sorted(map(sorted, per_partition))
        for member in members:
            member.close()

    def test_a_member_that_lost_its_partitions_cannot_commit(self, world: LogWorld) -> None:
        info = topic(world, partitions=1)
        world.engine.append(info, events(1, 2))
        silent = world.engine.consumer(info, "readers", options())
        assert silent.poll(SOON_S) is not None
        world.advance("11s")
        with world.engine.consumer(info, "readers", options()) as other:
            assert drain(other) == [1, 2]
            other.commit()
        with pytest.raises(Fenced):
            silent.commit()
        silent.close()
        with world.engine.consumer(info, "readers", options()) as third:
            assert drain(third) == []

    def test_a_stopped_or_closed_consumer_ends(self, world: LogWorld) -> None:
        info = topic(world)
        world.engine.append(info, events(1))
        consumer = world.engine.consumer(info, "readers", options(follow=True))
        consumer.stop()
        assert list(consumer) == []
        consumer.close()
        consumer.close()
        with pytest.raises(MillstreamError):
            consumer.poll(0)


class ProducerSuite:
    """Buffering producers: every event once, in order, or an error in its future."""

    def test_every_future_says_where_its_event_is(self, world: LogWorld) -> None:
        info = topic(world)
        producer = world.engine.producer(None, batching_policy(linger="1ms", batch_events=7))
        futures = [producer.send(info, event) for event in events(*range(50))]
        producer.flush(SOON_S)
        assert everything(world.engine, info) == list(range(50))
        for n, future in enumerate(futures):
            where = future.result(SOON_S)
            batch = world.engine.read(
                info, where.partition, where.first_offset, events_max=1, bytes_max=1
            )
            assert batch is not None
            assert batch.to_pylist()[0]["n"] == n
        producer.close()

    def test_closing_stores_what_was_sent(self, world: LogWorld) -> None:
        info = topic(world)
        producer = world.engine.producer(None, batching_policy(linger="1h"))
        futures = [producer.send(info, event) for event in events(*range(10))]
        producer.close()
        assert all(future.done() for future in futures)
        assert everything(world.engine, info) == list(range(10))
        with pytest.raises(MillstreamError):
            producer.send(info, events(1)[0])

    def test_a_bad_event_fails_alone(self, world: LogWorld) -> None:
        info = topic(world)
        producer = world.engine.producer(None, batching_policy(linger="1h"))
        bad = {"user": "user-1", "n": "one"}
        futures = [producer.send(info, event) for event in [*events(1), bad, *events(6, 11)]]
        producer.flush(SOON_S)
        assert isinstance(futures[1].exception(SOON_S), SchemaError)
        assert everything(world.engine, info) == [1, 6, 11]
        producer.close()

    def test_a_numbered_event_is_stored_once(self, world: LogWorld) -> None:
        info = topic(world)
        for engine in (world.engine, world.another()):
            producer = engine.producer("import", batching_policy(linger="1ms", batch_events=4))
            futures = [
                producer.send(info, event, sequence=event["n"]) for event in events(*range(25))
            ]
            producer.close()
            assert all(
                future.result(SOON_S).repeated == (engine is not world.engine) for future in futures
            )
        assert everything(world.engine, info) == list(range(25))

    def test_a_source_goes_on_where_its_last_run_ended(self, world: LogWorld) -> None:
        info = topic(world)
        producer = world.engine.producer("import", batching_policy(linger="1ms"))
        for event in events(*range(10)):
            producer.send(info, event, sequence=event["n"])
        producer.close()
        successor = world.another().producer("import", batching_policy(linger="1ms"))
        assert max(successor.sequences(info).values()) == 9
        for event in events(
            *range(5, 15)
        ):  # from before the end: what overlaps is not stored again
            successor.send(info, event, sequence=event["n"])
        successor.close()
        assert everything(world.engine, info) == list(range(15))

    def test_the_next_producer_of_a_name_fences_the_last(self, world: LogWorld) -> None:
        info = topic(world)
        old = world.engine.producer("import", batching_policy(linger="1ms"))
        old.send(info, events(0)[0])
        old.flush(SOON_S)
        new = world.another().producer("import", batching_policy(linger="1ms"))
        refused = old.send(info, events(1)[0])
        old.flush(SOON_S)
        assert isinstance(refused.exception(SOON_S), Fenced)
        new.send(info, events(2)[0])
        new.flush(SOON_S)
        assert everything(world.engine, info) == [0, 2]
        old.close()
        new.close()


class TransactionSuite:
    """Events of several topics and places of consumers: all or nothing."""

    def move(self, world: LogWorld, consumer: Consumer, targets: Sequence[TopicInfo]) -> bool:
        """Move one batch from the consumer's topic to others."""
        batch = consumer.poll(0)
        if batch is None:
            return False
        transaction = world.engine.transaction()
        for target in targets:
            transaction.append(target, batch.to_pylist())
        transaction.commit(consumer)
        transaction.finish()
        return True

    def test_events_and_places_become_visible_together(self, world: LogWorld) -> None:
        source, left, right = (topic(world, name) for name in ("source", "left", "right"))
        world.engine.append(source, events(*range(20)))
        with world.engine.consumer(source, "mover", options(batch_events=4)) as consumer:
            while self.move(world, consumer, [left, right]):
                continue
        assert everything(world.engine, left) == everything(world.engine, right) == list(range(20))
        assert sum(one.events for one in world.engine.lag(source)["mover"]) == 0

    def test_nothing_is_visible_before_the_end(self, world: LogWorld) -> None:
        left, right = topic(world, "left"), topic(world, "right")
        transaction = world.engine.transaction()
        transaction.append(left, events(1))
        transaction.append(right, events(2))
        assert everything(world.engine, left) == everything(world.engine, right) == []
        transaction.finish()
        assert (everything(world.engine, left), everything(world.engine, right)) == ([1], [2])

    def test_a_lost_partition_undoes_everything(self, world: LogWorld) -> None:
        source, target = topic(world, "source", partitions=1), topic(world, "target")
        world.engine.append(source, events(1))
        silent = world.engine.consumer(source, "mover", options())
        batch = silent.poll(SOON_S)
        assert batch is not None
        world.advance("11s")
        with world.engine.consumer(source, "mover", options()) as other:
            assert other.poll(SOON_S) is not None
            transaction = world.engine.transaction()
            transaction.append(target, batch.to_pylist())
            transaction.commit(silent)
            with pytest.raises(Fenced):
                transaction.finish()
        assert everything(world.engine, target) == []
        silent.close()

    def test_data_that_does_not_fit_is_refused_at_once(self, world: LogWorld) -> None:
        left, right = topic(world, "left"), topic(world, "right")
        transaction = world.engine.transaction()
        transaction.append(left, events(1))
        with pytest.raises(SchemaError):
            transaction.append(right, [{"user": "a"}])
        assert everything(world.engine, left) == []
