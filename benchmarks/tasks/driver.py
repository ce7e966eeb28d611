"""Measures one system in a process of its own, so that no client library bothers another.

    servers ─> with 2 workers, then 1:   all are ready ─> for each kind of task:
                                         close the gate ─> fill the queue ─> open the gate ─> all done
               with one worker, at the end: round trips, one after the other

Its last line is JSON: ``{"values": {…}}``, or ``{"reason": "…"}`` when the system cannot be measured here.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.drivers import values_of
from benchmarks.harness import Values, reason_of
from benchmarks.programs import cpu_s, descendants, tail, until
from benchmarks.tasks.contract import (
    NO_OP,
    SPIN_1,
    SPIN_20,
    Amounts,
    TaskClient,
    TaskSystem,
)
from benchmarks.tasks.systems import system_named
from benchmarks.tasks.work import GATE_VARIABLE, Gate

SEND, BULK, MEDIAN, TAIL, COST = "send", "bulk", "p50", "p99", "cost"
_READY_TIMEOUT_S = 60.0
_DRAIN_TIMEOUT_S = 120.0
_LOOK_EVERY_S = 0.01
_WARM_UP_TASKS = 16
_WARM_UP_CALLS = 20
_MILLISECONDS = 1e3
_MICROSECONDS = 1e6


@dataclass(frozen=True, slots=True)
class Job:
    """What to measure of one system."""

    system: str
    amounts: Amounts
    workers: Sequence[int] = (2, 1)
    """Round trips come last: from then on some systems do not tell how many results they hold."""
    kinds: Sequence[str] = (NO_OP, SPIN_1, SPIN_20)
    round_trips: bool = True
    timeout_s: float = 240.0


def drive(job: Job, directory: Path) -> Values:
    """Measure in a fresh process. Raises Unavailable with the reason, or when it takes longer than the job may."""
    command = [sys.executable, "-m", "benchmarks.tasks.driver", json.dumps(asdict(job))]
    return values_of([*command, str(directory)], timeout_s=job.timeout_s)


@dataclass(slots=True)
class _Session:
    """One system with some workers that are running."""

    client: TaskClient
    gate: Gate
    workers: int
    values: dict[str, float]
    sent: int
    cost_us: float = 0.0
    """Time of processors that the last drain took of workers and servers, for each task."""

    def get_ready(self) -> None:
        """Return when every worker has come to a task, and all have been done."""
        self.gate.close()

        def all_have_come() -> bool:
            if self.gate.arrived() >= self.workers:
                return True
            # More of them: the first worker may have taken all that were there.
            for _ in range(_WARM_UP_TASKS):
                self._send_one(NO_OP)
            return False

        until(all_have_come, timeout_s=_READY_TIMEOUT_S, every_s=0.5, what="all workers are ready")
        self._drain()

    def fill(self, kind: str, count: int, *, bulk: bool) -> float:
        """Close the gate and send; return how many were sent in a second."""
        self.gate.close()
        gc.collect()
        began = time.perf_counter()
        if bulk:
            self.client.send_many(kind, count)
            self.sent += count
        else:
            for _ in range(count):
                self._send_one(kind)
        return count / (time.perf_counter() - began)

    def drain(self, count: int) -> float:
        """Open the gate; return how many were done in a second."""
        until(
            lambda: self.gate.arrived() >= min(self.workers, count),
            timeout_s=_READY_TIMEOUT_S,
            every_s=_LOOK_EVERY_S,
            what="all workers stand at the gate",
        )
        family = descendants(os.getpid())
        before_s = cpu_s(family)
        elapsed = self._drain()
        self.cost_us = _MICROSECONDS * (cpu_s(family) - before_s) / count
        return count / elapsed

    def round_trips(self, count: int) -> list[float]:
        """Return how long each of so many calls took, in milliseconds, sorted."""
        waits = []
        for number in range(_WARM_UP_CALLS + count):
            began = time.perf_counter()
            self.client.wait(self._send_one(NO_OP))
            if number >= _WARM_UP_CALLS:
                waits.append(_MILLISECONDS * (time.perf_counter() - began))
        return sorted(waits)

    def _send_one(self, kind: str) -> Any:
        handle = self.client.send(kind)
        self.sent += 1
        return handle

    def _drain(self) -> float:
        began = time.perf_counter()
        self.gate.open()
        until(
            lambda: self.client.is_done(self.sent),
            timeout_s=_DRAIN_TIMEOUT_S,
            every_s=_LOOK_EVERY_S,
            what=f"all of {self.sent} tasks are done",
        )
        elapsed = time.perf_counter() - began
        if (stored := self.client.results()) != self.sent:
            raise RuntimeError(f"{stored} results are stored of {self.sent} tasks")
        return elapsed


def measure(system: TaskSystem, job: Job, directory: Path) -> Values:
    """Measure a system whose workers find the gate through the environment of this process."""
    gate_path = directory / "gate"
    os.environ[GATE_VARIABLE] = str(gate_path)
    gate, log = Gate(gate_path), directory / "workers.log"
    values: dict[str, float] = {}
    try:
        with system.serving(directory), closing(system.connect()) as client:
            sent = 0
            for workers in job.workers:
                with system.working(workers, log):
                    session = _Session(client, gate, workers, values, sent)
                    _measure_session(session, job)
                    sent = session.sent
    except Exception as error:
        if said := tail(log):
            error.add_note(said)
        raise
    finally:
        gate.open()
    return values


def _measure_session(session: _Session, job: Job) -> None:
    session.get_ready()
    several = session.workers > 1
    for kind in job.kinds:
        count = _count(job.amounts, kind, session.workers)
        rate = session.fill(kind, count, bulk=several)
        if kind == NO_OP:
            session.values[BULK if several else SEND] = rate
        session.values[drained(kind, session.workers)] = session.drain(count)
        if kind == NO_OP:
            session.values[COST] = session.cost_us  # That of one worker is the last.
    if job.round_trips and not several:
        waits = session.round_trips(job.amounts.round_trips)
        session.values[MEDIAN] = waits[len(waits) // 2]
        session.values[TAIL] = waits[min(len(waits) - 1, len(waits) * 99 // 100)]


def drained(kind: str, workers: int) -> str:
    """Return the name of a value: how many of this kind so many workers did in a second."""
    return f"{kind}/{workers}"


def _count(amounts: Amounts, kind: str, workers: int) -> int:
    if kind == NO_OP:
        return amounts.singles if workers == 1 else amounts.bulk
    return workers * (amounts.spins_1_ms if kind == SPIN_1 else amounts.spins_20_ms)


def main(given: Sequence[str]) -> Mapping[str, Any]:
    """Measure what the command line says; return the answer."""
    fields = json.loads(given[0])
    job = Job(**{**fields, "amounts": Amounts(**fields["amounts"])})
    try:
        return {"values": measure(system_named(job.system), job, Path(given[1]))}
    except Exception as error:  # noqa: BLE001 - a peer may fail in any way; the reason goes into the notes
        notes = " ".join(getattr(error, "__notes__", []))
        reason = reason_of(error)
        return {"reason": f"{reason} ({notes})" if notes else reason}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:])))
