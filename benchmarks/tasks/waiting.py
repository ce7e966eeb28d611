"""A million tasks that wait: what they cost a claim and a worker's memory. And a worker that has nothing to do."""

from __future__ import annotations

import os
import statistics
import time
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.harness import OWN, Contender, Figure, Settings, Values, run_rounds
from benchmarks.processes import children, receive
from benchmarks.programs import cpu_s, descendants, pause, peak_resident_mib, until
from benchmarks.tasks.contract import NO_OP
from benchmarks.tasks.own import DISK, Millstream
from benchmarks.tasks.work import GATE_VARIABLE, Gate
from millstream.app import App
from millstream.tasks.limits import CLAIM_TASKS_MAX, LEASE_US

_CLAIM, _CLAIM_MS, _DONE = "claim", "claim, ms", "done"
_PEAK, _PEAK_FEW = "peak", "peak, few"
_IDLE = "idle"
_CLAIMS = 60
_WORK_S = 3.0
_MILLISECONDS = 1e3
# Claims of two rounds differ by as much on a machine that others use; a cost that grows with what waits is far more.
_CLAIM_RATIO_MAX = 1.1
_PEAK_MAX_MIB = 100.0 * 1e6 / 2**20
_IDLE_MAX_PERCENT = 0.5
_IDLE_S = 20.0
_QUIET_S = 2.0


@dataclass(frozen=True, slots=True)
class _Crowd:
    """How many claims are measured, and how many tasks wait then."""

    claims: int
    few: int
    many: int


def waiting(settings: Settings) -> list[Figure]:
    """Return what a claim and a worker cost with a million tasks in the queue, beside a few."""
    claims = settings.scaled(_CLAIMS, 4)
    few = claims * CLAIM_TASKS_MAX
    crowd = _Crowd(claims, few=few, many=settings.scaled(1_000_000, 2 * few))
    rounds = Settings(settings.directory, rounds=min(settings.rounds, 3), quick=settings.quick)
    contender = Contender(OWN, partial(_measure, settings, crowd))
    outcome = run_rounds([contender], rounds, title=f"{crowd.many:,} waiting")
    few_mib = outcome.of(OWN, _PEAK_FEW).median or 0.0
    return [
        Figure(
            f"a claim of {CLAIM_TASKS_MAX} with {crowd.many:,} waiting, over one with {crowd.few:,}",
            outcome.of(OWN, _CLAIM),
            "times",
            DISK,
            target=_CLAIM_RATIO_MAX,
            better="lower",
            notes=(
                f"medians of {claims} claims, each a commit of its own; with {crowd.many:,} waiting "
                f"{outcome.of(OWN, _CLAIM_MS).median or 0:.2f} ms; the target is no slower, and 10 % for noise",
            ),
        ),
        Figure(
            f"most memory of a worker process with {crowd.many:,} waiting",
            outcome.of(OWN, _PEAK),
            "MiB",
            DISK,
            target=_PEAK_MAX_MIB,
            better="lower",
            notes=(
                "resident, shared pages of libraries included, the target is 100 MB; with "
                f"{crowd.few:,} waiting it is {few_mib:.0f} MiB",
            ),
        ),
        Figure(
            f"done, no-op tasks, 1 worker, {crowd.many:,} waiting",
            outcome.of(OWN, _DONE),
            "tasks/s",
            DISK,
            notes=(f"in the first {_WORK_S:g} s",),
        ),
    ]


def _measure(settings: Settings, crowd: _Crowd, directory: Path) -> Values:
    found: list[dict[str, float]] = []
    for name, waiting in (("few", crowd.few), ("many", crowd.many)):
        place = directory / name
        place.mkdir()
        # In a process of its own: an app is declared once a process, with its store.
        work_s = 0.2 if settings.quick else _WORK_S
        with children(_measure_with, [(crowd.claims, waiting, work_s, place)]) as [connection]:
            found.append(receive(connection))
    few, many = found
    return {
        _CLAIM: many[_CLAIM] / few[_CLAIM],
        _CLAIM_MS: many[_CLAIM],
        _PEAK: many[_PEAK],
        _PEAK_FEW: few[_PEAK],
        _DONE: many[_DONE],
    }


def _measure_with(
    connection: Connection, claims: int, waiting: int, work_s: float, place: Path
) -> None:
    """In a child: measure with so many tasks in the queue."""
    own = Millstream(OWN, DISK)
    gate = Gate(place / "gate")
    os.environ[GATE_VARIABLE] = str(place / "gate")
    with own.serving(place), closing(own.connect()) as client:
        client.send_many(NO_OP, waiting)
        claim_ms = _claim_ms(client.app, claims)
        gate.close()
        with own.working(1, place / "workers.log") as [supervisor]:
            until(lambda: gate.arrived() == 1, timeout_s=60, every_s=0.05, what="a worker came")
            gate.open()
            began = time.perf_counter()
            pause(work_s)
            gate.close()
            elapsed = time.perf_counter() - began
            # One claim may still be on its way to its commit: a few of many.
            done = client.results()
            peak_mib = max(peak_resident_mib(pid) for pid in descendants(supervisor))
            gate.open()
    connection.send({_CLAIM: claim_ms, _PEAK: peak_mib, _DONE: done / elapsed})
    connection.recv()


def _claim_ms(app: App, claims: int) -> float:
    """Return the median of how long a claim takes; what was claimed goes back."""
    engine = app.tasks_engine
    lease = engine.join(["default"], lease_us=LEASE_US)
    times_ms = []
    for _ in range(claims):
        began = time.perf_counter()
        claimed = engine.exchange(lease, [], want=CLAIM_TASKS_MAX).claimed
        times_ms.append(_MILLISECONDS * (time.perf_counter() - began))
        assert len(claimed) == CLAIM_TASKS_MAX, "enough tasks wait"
    engine.leave(lease)
    return statistics.median(times_ms)


def idle(settings: Settings) -> list[Figure]:
    """Return how much of a processor a worker takes that has nothing to do."""
    seconds = 0.2 if settings.quick else _IDLE_S
    rounds = Settings(settings.directory, rounds=min(settings.rounds, 2), quick=settings.quick)
    outcome = run_rounds(
        [Contender(OWN, partial(_measure_idle, seconds))], rounds, title="an idle worker"
    )
    return [
        Figure(
            "a worker that has nothing to do",
            outcome.of(OWN, _IDLE),
            "% of a processor",
            DISK,
            target=_IDLE_MAX_PERCENT,
            better="lower",
            notes=(f"supervisor and one process together, over {seconds:g} s",),
        )
    ]


def _measure_idle(seconds: float, directory: Path) -> Values:
    with children(_stay_idle, [(seconds, directory)]) as [connection]:
        return {_IDLE: receive(connection)}


def _stay_idle(connection: Connection, seconds: float, place: Path) -> None:
    """In a child: let a worker do one task, and then nothing."""
    own = Millstream(OWN, DISK)
    os.environ[GATE_VARIABLE] = str(place / "gate")
    with own.serving(place), closing(own.connect()) as client:
        with own.working(1, place / "workers.log") as [supervisor]:
            client.wait(client.send(NO_OP))
            pause(min(_QUIET_S, seconds))
            family = [supervisor, *descendants(supervisor)]
            before, began = cpu_s(family), time.perf_counter()
            pause(seconds)
            used = (cpu_s(family) - before) / (time.perf_counter() - began)
    connection.send(100 * used)
    connection.recv()
