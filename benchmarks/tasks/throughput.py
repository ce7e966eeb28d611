"""All systems beside each other: sending, doing, and round trips.

One measurement of a system gives all its values (``driver.py``), so every figure of a round saw the same minutes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.harness import (
    OWN,
    Contender,
    Figure,
    Outcome,
    Samples,
    Settings,
    Values,
    run_rounds,
)
from benchmarks.tasks.contract import KINDS, NO_OP, SPIN_1, SPIN_20, USUAL, Amounts, TaskSystem
from benchmarks.tasks.driver import BULK, COST, MEDIAN, SEND, TAIL, Job, drained, drive
from benchmarks.tasks.own import DISK, OWN_PROCESS, PROCESS
from benchmarks.tasks.peers.process_pool import ProcessPool
from benchmarks.tasks.systems import CELERY_ON_REDIS, OWN_SYSTEMS, PEERS

_UNIT = "tasks/s"
_QUICK = Amounts(singles=40, bulk=60, spins_1_ms=10, spins_20_ms=2, round_trips=10)
_DRAIN_MIN = 20_000.0
_TIMES_CELERY_MIN = 30.0
_BULK_MIN = 100_000.0
_SEND_MIN = {DISK: 4_000.0, PROCESS: 20_000.0}
_ROUND_TRIP_MAX_MS = {DISK: 2.0, PROCESS: 0.5}


def queues(settings: Settings) -> list[Figure]:
    """Return what all systems do in a second, and how long a round trip takes."""
    chosen = systems(settings)
    contenders = [Contender(system.name, partial(_measure, system, settings)) for system in chosen]
    outcome = run_rounds(contenders, settings, title="queues")
    note = amounts_note([system for system in chosen if not settings.quick])
    return [
        *(drain_figure(outcome, kind, workers, note) for workers in (1, 2) for kind in KINDS),
        *(times_celery(outcome, workers) for workers in (1, 2)),
        _cost_figure(outcome),
        *_sending_figures(outcome),
        *_round_trip_figures(outcome),
    ]


def systems(settings: Settings) -> list[TaskSystem]:
    """Return ours, and the peers that are wanted."""
    return [*OWN_SYSTEMS, *(peer for peer in PEERS if settings.wants(peer.name))]


def _measure(system: TaskSystem, settings: Settings, directory: Path) -> Values:
    amounts = _QUICK if settings.quick else system.amounts
    return drive(Job(system.name, amounts), directory)


def amounts_note(chosen: Sequence[TaskSystem]) -> str:
    """Say how many tasks were done, and by whom fewer or more."""
    others = [
        f"{system.name} {system.amounts.singles:,} and {system.amounts.bulk:,}"
        for system in chosen
        if (system.amounts.singles, system.amounts.bulk) != (USUAL.singles, USUAL.bulk)
    ]
    return (
        f"no-op tasks a round: {USUAL.singles:,} with one worker, {USUAL.bulk:,} with two; of 1 ms "
        f"{USUAL.spins_1_ms:,} and of 20 ms {USUAL.spins_20_ms:,} a worker; but "
        f"{'; '.join(others) or 'none'}"
    )


def drain_figure(outcome: Outcome, kind: str, workers: int, note: str) -> Figure:
    """Return how many tasks of a kind are done in a second, from the opened gate to the last result."""
    value = drained(kind, workers)
    notes = [
        "from the moment when all workers stand before a full queue until all results are stored "
        "and all tasks acknowledged"
    ]
    if kind == NO_OP and note:
        notes.append(note)
    if kind != NO_OP:
        milliseconds = {SPIN_1: 1, SPIN_20: 20}[kind]
        notes.append(f"nothing but the tasks themselves: {workers * 1000 / milliseconds:,.0f}")
    return Figure(
        f"done, {kind} tasks, {workers} worker{'s' if workers > 1 else ''}",
        outcome.of(OWN, value),
        _UNIT,
        DISK,
        target=_DRAIN_MIN if kind == NO_OP else None,
        peers=outcome.peers(value),
        notes=notes,
    )


def times_celery(outcome: Outcome, workers: int) -> Figure:
    """Return, round by round, how many times as fast as the best Celery on Redis we did no-op tasks."""
    value = drained(NO_OP, workers)
    celery = [
        outcome.of(system.name, value).values
        for system in CELERY_ON_REDIS
        if system.name in outcome.rounds and system.name not in outcome.reasons
    ]
    name = f"done, no-op tasks, over the best Celery on Redis of the round, {workers} worker"
    samples = Samples(reason="no Celery on Redis was measured")
    if celery:
        best = [max(rates) for rates in zip(*celery, strict=True)]
        ours = outcome.of(OWN, value).values
        samples = Samples(tuple(our / their for our, their in zip(ours, best, strict=True)))
    return Figure(
        name + ("s" if workers > 1 else ""),
        samples,
        "times",
        DISK,
        target=_TIMES_CELERY_MIN,
        notes=("ours with durability=disk, Celery with the best of its settings",),
    )


def _cost_figure(outcome: Outcome) -> Figure:
    return Figure(
        "processor time of a no-op task, 1 worker",
        outcome.of(OWN, COST),
        "µs",
        DISK,
        better="lower",
        peers=outcome.peers(COST),
        notes=(
            "workers and servers together while the queue is drained, the sender left out, which for the "
            "process pool does a part of it; it depends less than a rate on what else the machine does",
        ),
    )


def _sending_figures(outcome: Outcome) -> list[Figure]:
    single = "sent, one by one", SEND, "while the worker waits at the gate"
    bulk = "sent, many at once", BULK, "as many in a call as the system takes, at most 1,000"
    figures = []
    for name, value, note in (single, bulk):
        for own, durability in ((OWN, DISK), (OWN_PROCESS, PROCESS)):
            peers = outcome.peers(value) if own == OWN else {}
            peers.pop(OWN_PROCESS, None)
            figures.append(
                Figure(
                    f"{name}, {durability}",
                    outcome.of(own, value),
                    _UNIT,
                    durability,
                    target=_SEND_MIN[durability] if value == SEND else _BULK_MIN,
                    peers=peers,
                    notes=(note,),
                )
            )
    return figures


def _round_trip_figures(outcome: Outcome) -> list[Figure]:
    figures = []
    for own, durability in ((OWN, DISK), (OWN_PROCESS, PROCESS)):
        for value in (MEDIAN, TAIL):
            peers = outcome.peers(value) if own == OWN else {}
            peers.pop(OWN_PROCESS, None)
            figures.append(
                Figure(
                    f"sent until its result is back, {value}, {durability}",
                    outcome.of(own, value),
                    "ms",
                    durability,
                    target=_ROUND_TRIP_MAX_MS[durability] if value == MEDIAN else None,
                    better="lower",
                    peers=peers,
                    notes=("one call after the other, one worker",),
                )
            )
    return figures


def busy(settings: Settings) -> list[Figure]:
    """Return how much of two processors the tasks themselves get, with two workers and tasks of 20 ms."""
    spins = settings.scaled(500, 4)
    amounts = Amounts(singles=1, bulk=1, spins_20_ms=spins)
    names = [OWN, *(name for name in (ProcessPool.name,) if settings.wants(name))]

    def measure(name: str, directory: Path) -> Values:
        job = Job(name, amounts, workers=(2,), kinds=(SPIN_20,), round_trips=False)
        rate = drive(job, directory)[drained(SPIN_20, 2)]
        return {"%": 100 * rate * 0.020 / 2}

    contenders = [Contender(name, partial(measure, name)) for name in names]
    outcome = run_rounds(contenders, settings, title="busy")
    return [
        Figure(
            "two processors that two workers keep busy with 20 ms tasks",
            outcome.of(OWN, "%"),
            "%",
            DISK,
            target=95.0,
            peers=outcome.peers("%"),
            notes=(
                f"{2 * spins:,} tasks that each take 20 ms of a processor, over twice the time "
                "until all results are stored; on a machine with two processors, whoever measures "
                "runs beside them",
            ),
        )
    ]
