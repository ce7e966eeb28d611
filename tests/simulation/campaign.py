"""A ledger run: processes do random things to one store while they are killed at random.

A worker takes its moves from a seed: appends of every form, numbered producers, transactions, groups,
all chores of whoever holds the duty, topics that come and go, closing and opening. Where
it dies is drawn too: at some reach of some step, or wherever a report finds it. The next worker of the
same number goes on behind what was begun, and the ledger of all of them is compared at the end.

Topics: ``events`` keeps all, ``moved`` gets each of them once, ``short`` keeps the youngest, ``keys``
the last of each key, ``numbered`` comes from producers that send everything again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import polars as pl
import pyarrow as pa

from millstream.engines.local import upkeep
from millstream.engines.local.consumer import LocalConsumer
from millstream.log.batching import batching_policy
from millstream.log.definition import TopicSpec
from millstream.primitives.errors import Fenced, UnknownTopic
from millstream.store import recovery
from millstream.store.locks import FileLock
from millstream.testing.crash import Report
from tests.simulation.ledger import SOURCE_EVENTS, event, events, spec
from tests.simulation.scenarios import open_log, options

TOPICS: tuple[TopicSpec, ...] = (
    spec("events", partitions=3),
    spec("moved"),
    spec("short", retention_bytes=200_000),
    spec("keys", compaction=True),
    spec("numbered"),
)


class Worker:
    """One process of the run."""

    def __init__(
        self, report: Report, path: Path, seed: str, source: int, begun: dict[str, int]
    ) -> None:
        self.random = Random(seed)
        self.path = path
        self.source = source
        self.next = {spec.name: begun.get(spec.name, source * SOURCE_EVENTS) for spec in TOPICS}
        self.report = report
        self.consumer: LocalConsumer | None = None
        self.open()
        # What must be alike however often it happens, and what happens most.
        self.moves: list[tuple[int, Callable[[], None]]] = [
            (12, self.append),
            (4, self.send),
            (6, self.move),
            (10, self.upkeep_of_log),
            (1, self.come_and_go),
            (1, self.reopen),
        ]

    def open(self) -> None:
        durability = self.random.choice(("disk", "process"))
        self.store, self.log = open_log(self.path, durability)
        self.duty = FileLock(self.store.directory.run / "duty.lock")
        self.on_duty = False
        for topic in TOPICS:
            self.log.create_topic(topic)
        self.report(("opened", []))

    def close(self) -> None:
        self.consumer = None
        self.duty.close()
        self.log.close()
        self.store.close()

    def reopen(self) -> None:
        self.close()
        self.open()

    def step(self) -> None:
        weights, moves = zip(*self.moves, strict=True)
        self.random.choices(moves, weights)[0]()

    def take(self, topic: str, size: int) -> range:
        """Return the next numbers of this source, and tell that they are begun."""
        first = self.next[topic]
        self.next[topic] = first + size
        self.report(("begin", topic, list(range(first, first + size))))
        return range(first, first + size)

    def append(self) -> None:
        topic = self.random.choice(("events", "events", "short", "keys"))
        numbers = self.take(topic, self.random.choice((1, 1, 2, 7, 30)))
        rows = events(numbers)
        info = self.log.topic(topic)
        form = self.random.randrange(5)
        if form == 0 and len(rows) == 1:
            self.log.append(info, rows[0])
        elif form == 1:
            self.log.append(info, pa.Table.from_pylist(rows, schema=info.schema))
        elif form == 2:
            self.log.append(info, pa.RecordBatch.from_pylist(rows, schema=info.schema))
        elif form == 3:
            self.log.append(info, pl.DataFrame(rows))
        else:
            self.log.append(info, rows)
        self.report(("ack", topic, list(numbers)))

    def send(self) -> None:
        """Send the last numbers of this source again, and some new ones."""
        info = self.log.topic("numbered")
        name = f"source-{self.source}"
        policy = batching_policy(linger="0ms", batch_events=self.random.choice((1, 3, 50)))
        before = self.next["numbered"]
        again = range(max(self.source * SOURCE_EVENTS, before - 5), before)
        fresh = self.take("numbered", self.random.choice((1, 5, 12)))
        with self.log.producer(name, policy) as producer:
            for n, sent in [
                (n, producer.send(info, event(n), sequence=n)) for n in (*again, *fresh)
            ]:
                sent.result()
                self.report(("ack", "numbered", [n]))

    def move(self) -> None:
        """Move a batch from one topic to another, together with the group's position."""
        if self.consumer is None:
            info = self.log.topic("events")
            self.consumer = self.log.consumer(info, "movers", options(batch_events=20))
        batch = self.consumer.poll(0)
        if batch is None:
            if self.random.random() < 0.3:
                self.consumer.close()
                self.consumer = None
            return
        numbers = [row["n"] for row in batch.to_pylist()]
        transaction = self.log.transaction()
        transaction.append(self.log.topic("moved"), events(numbers))
        transaction.commit(self.consumer)
        try:
            transaction.finish()
        except Fenced:
            self.consumer.close()
            self.consumer = None
        else:
            self.report(("moved", "moved", numbers))

    def upkeep_of_log(self) -> None:
        """Do a chore, if this process holds the duty or can have it."""
        self.on_duty = self.on_duty or self.duty.try_acquire()
        if self.on_duty:
            _, chore = self.random.choice(self.log.upkeep.chores())
            chore()

    def come_and_go(self) -> None:
        """Make a topic, fill it and delete it; the others do the same with the same one."""
        try:
            info = self.log.create_topic(spec("passing"))
            self.log.append(info, events(range(8)))
            self.log.delete_topic("passing")
        except UnknownTopic:
            return  # another worker deleted it first


def work(
    report: Report, path: Path, seed: str, source: int, begun: dict[str, int], moves: int
) -> None:
    """Make so many moves."""
    recovery.CATALOG_CHECKPOINT_PAGES = 40
    upkeep.MERGE_FRAMES_MIN = 4
    upkeep._COMPACT_EVENTS_MIN = 20
    worker = Worker(report, path, seed, source, begun)
    for _ in range(moves):
        worker.step()
    worker.close()
