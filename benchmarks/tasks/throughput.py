"""How many tasks are sent, and how many one worker does, in a second."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.harness import OWN, Contender, Figure, Settings, Values, rate, run_rounds
from benchmarks.peers.contract import DISK, PROCESS, Place
from benchmarks.tasks.queues import Call, Queue, System, systems

_VALUE = "tasks/s"
_BATCH_TASKS = 1_000
_DONE_TASKS = 5_000
_CALL: Call = {"a": 1, "b": 2}
_RESULTS_NOTE = "millstream stores every result as well, the others store none"

Measure = Callable[[Queue, Settings], float]


def sent(settings: Settings) -> list[Figure]:
    """Return the rates of sending, one by one and a thousand at a time."""
    return [
        _figure("send, one by one", PROCESS, _send_single, settings),
        _figure("send, 1000 at a time", PROCESS, _send_many, settings),
        _figure("send, one by one, disk", DISK, _send_single, settings),
        _figure("send, 1000 at a time, disk", DISK, _send_many, settings),
    ]


def done(settings: Settings) -> list[Figure]:
    """Return the rates of sending tasks that do nothing in one batch, and doing them."""
    return [
        _figure("sent at once, and done by one worker", PROCESS, _work, settings, _RESULTS_NOTE),
        _figure("sent at once, and done by one worker, disk", DISK, _work, settings, _RESULTS_NOTE),
    ]


def _figure(
    name: str, durability: str, measure: Measure, settings: Settings, *notes: str
) -> Figure:
    contenders = [
        Contender(system.name, partial(_run, system, durability, measure, settings))
        for system in systems(settings)
    ]
    outcome = run_rounds(contenders, settings, title=name)
    return Figure(
        name,
        outcome.of(OWN, _VALUE),
        _VALUE,
        durability,
        peers=outcome.peers(_VALUE),
        notes=notes,
    )


def _run(
    system: System, durability: str, measure: Measure, settings: Settings, directory: Path
) -> Values:
    with system.open(Place(directory, durability)) as queue:
        return {_VALUE: measure(queue, settings)}


def _send_single(queue: Queue, settings: Settings) -> float:
    def step() -> int:
        queue.send(_CALL)
        return 1

    return rate(step, settings.seconds, warm_up_s=settings.warm_up_s)


def _send_many(queue: Queue, settings: Settings) -> float:
    calls = [_CALL] * _BATCH_TASKS

    def step() -> int:
        queue.send_many(calls)
        return _BATCH_TASKS

    return rate(step, settings.seconds, warm_up_s=settings.warm_up_s)


def _work(queue: Queue, settings: Settings) -> float:
    calls = [_CALL] * settings.scaled(_DONE_TASKS, 50)
    return len(calls) / queue.do(calls)
