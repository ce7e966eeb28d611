"""Appending in one process: a thousand, a hundred and one event at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.harness import Contender, Figure, Settings, Values, rate, run_rounds
from benchmarks.log.own import Millstream, open_topic, payloads
from benchmarks.peers.contract import DISK, PROCESS, Place, System, require
from benchmarks.peers.every import peers

_VALUE = "events/s"
_SENT_BEFORE_WAITING = 1_000


@dataclass(frozen=True, slots=True)
class Case:
    """One way to append."""

    name: str
    batch_events: int
    durability: str
    target: float | None = None
    as_dicts: bool = False
    notes: Sequence[str] = ()


CASES = (
    Case(
        "append, batches of 1000",
        1_000,
        PROCESS,
        5e6,
        notes=(
            "100-byte events; a batch is a RecordBatch, each peer's own form is made beforehand",
        ),
    ),
    Case("append, batches of 1000, list of dicts", 1_000, PROCESS, as_dicts=True),
    Case("append, batches of 100", 100, PROCESS, 1e6, notes=("a batch is a RecordBatch",)),
    Case("append, single events", 1, PROCESS, 2e4, notes=("an event is a dict",)),
    Case("append, batches of 1000, disk", 1_000, DISK, notes=("a batch is a RecordBatch",)),
    Case("append, single events, disk", 1, DISK, notes=("an event is a dict",)),
)


def appends(settings: Settings) -> list[Figure]:
    """Measure every case with all peers, and what a buffering producer makes of single events."""
    return [*(_case(case, settings) for case in CASES), _producer(settings)]


def _case(case: Case, settings: Settings) -> Figure:
    systems: list[System] = [Millstream(as_dicts=case.as_dicts), *peers(settings)]
    contenders = [
        Contender(system.name, partial(_measure, system, case, settings)) for system in systems
    ]
    outcome = run_rounds(contenders, settings, title=case.name)
    return Figure(
        case.name,
        outcome.of(Millstream().name, _VALUE),
        _VALUE,
        case.durability,
        case.target,
        peers=outcome.peers(_VALUE),
        notes=case.notes,
    )


def _measure(system: System, case: Case, settings: Settings, directory: Path) -> Values:
    require(system, case.durability)
    with system.running(directory, case.durability) as place:
        client = system.connect(place)
        try:
            batch = client.prepare(payloads(case.batch_events))

            def step() -> int:
                client.append(batch)
                return case.batch_events

            return {_VALUE: rate(step, settings.seconds, warm_up_s=settings.warm_up_s)}
        finally:
            client.close()


def _producer(settings: Settings) -> Figure:
    """Single events through ``topic.producer()``; the clock stops when all of them are acknowledged."""
    contender = Contender(Millstream().name, partial(_measure_producer, settings))
    outcome = run_rounds([contender], settings, title="buffering producer")
    return Figure(
        "producer.send of single events, until all are acknowledged",
        outcome.of(Millstream().name, _VALUE),
        _VALUE,
        PROCESS,
    )


def _measure_producer(settings: Settings, directory: Path) -> Values:
    app, topic = open_topic(Place(directory, PROCESS))
    try:
        with topic.producer() as producer:
            event = {"payload": payloads(1)[0]}

            def step() -> int:
                sent = [producer.send(event) for _ in range(_SENT_BEFORE_WAITING)]
                for delivery in sent:
                    delivery.result()
                return len(sent)

            return {_VALUE: rate(step, settings.seconds, warm_up_s=settings.warm_up_s)}
    finally:
        app.close()
