"""A ledger run for some seconds under one seed; ``make soak`` lets it run longer and again and again.

Environment:
    MILLSTREAM_SEED      what is drawn: the number that the run's header printed.
    MILLSTREAM_SECONDS   how long processes are killed.
    MILLSTREAM_SEEDS     how many runs there are, each with a number of its own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from multiprocessing.connection import wait
from pathlib import Path
from random import Random
from typing import Any

import pytest

import millstream
from millstream.engines.local.log import LocalLog
from millstream.primitives.clock import SYSTEM_CLOCK
from millstream.testing.crash import KillAt, Running, start, steps_in
from tests.simulation import campaign, scenarios
from tests.simulation.ledger import Ledger, opened, source_of, stored

SECONDS = float(os.environ.get("MILLSTREAM_SECONDS", "6"))
RUNS = int(os.environ.get("MILLSTREAM_SEEDS", "1"))
PROCESSES = 3
MOVES = 120
PATIENCE_S = 60.0
STEPS = sorted(
    {
        step
        for step, _ in steps_in(Path(millstream.__file__).parent)
        if not step.startswith(("task.", "flow.", "schedule.", "workflow.", "migration."))
    }
)


class Run:
    """The processes of one ledger run, and all that they said."""

    def __init__(self, path: Path, seed: str) -> None:
        self.path = path
        self.random = Random(seed)
        self.seed = seed
        self.workers: dict[int, Running] = {}
        self.doomed: dict[int, int] = {}
        self.reports: list[Any] = []
        self.killed = self.ended = 0

    def begin(self, source: int) -> None:
        """Start the next worker of a number: one that dies at a step, one that dies at a report, or one that ends."""
        kill_at = None
        fate = self.random.random()
        if fate < 0.6:
            kill_at = KillAt(self.random.choice(STEPS), self.random.randint(1, 12))
        elif fate < 0.9:
            self.doomed[source] = self.random.randint(1, 150)
        arguments = (f"{self.seed}-{len(self.reports)}", source, self._begun(source), MOVES)
        self.workers[source] = start(campaign.work, self.path, *arguments, kill_at=kill_at)

    def _begun(self, source: int) -> dict[str, int]:
        return {
            report[1]: report[2][-1] + 1
            for report in self.reports
            if report[0] == "begin" and source_of(report[2][0]) == source
        }

    def listen(self) -> None:
        """Take in what somebody says; bury who died."""
        ready = wait([worker.pipe for worker in self.workers.values()], PATIENCE_S)
        assert ready, "nobody said anything"
        for source, worker in list(self.workers.items()):
            if worker.pipe in ready:
                self._listen_to(source, worker)

    def _listen_to(self, source: int, worker: Running) -> None:
        try:
            self.reports.append(worker.next_report(PATIENCE_S))
        except EOFError:
            self.end(source)
            return
        if source in self.doomed:
            self.doomed[source] -= 1
            if not self.doomed[source]:
                self.kill(source)

    def kill(self, source: int) -> None:
        """Kill a worker where it is."""
        self.workers[source].kill()
        self.end(source)

    def end(self, source: int) -> None:
        """Take in the last words of one that is dead."""
        worker = self.workers.pop(source)
        self.doomed.pop(source, None)
        known = len(worker.outcome.reports)
        outcome = worker.wait()
        assert not outcome.error, outcome.error
        self.reports += outcome.reports[known:]
        self.killed += outcome.killed
        self.ended += not outcome.killed

    def of(self, topic: str) -> list[tuple[str, Sequence[int]]]:
        """Return what was said about a topic."""
        return [(report[0], report[2]) for report in self.reports if report[1:2] == (topic,)]


def verify(run: Run, log: LocalLog) -> None:
    """Compare every topic with what is known of it."""
    Ledger.of(run.of("events")).verify_numbers(stored(log, "events"))
    numbered = Ledger.of(run.of("numbered"))
    # Each event of a producer is a batch of its own.
    Ledger([(n,) for batch in numbered.begun for n in batch], numbered.acknowledged).verify_numbers(
        stored(log, "numbered")
    )
    _verify_moved(run, log)
    _verify_short(Ledger.of(run.of("short")), stored(log, "short"))
    _verify_keys(Ledger.of(run.of("keys")), stored(log, "keys"))


def _verify_moved(run: Run, log: LocalLog) -> None:
    moved = [n for numbers in stored(log, "moved") for n in numbers]
    assert len(moved) == len(set(moved)), "moved twice"
    acknowledged = {n for kind, numbers in run.of("moved") if kind == "moved" for n in numbers}
    assert acknowledged <= set(moved), "acknowledged and lost"
    consumer = log.consumer(log.topic("events"), "movers", scenarios.options())
    rest: list[int] = []
    while (batch := consumer.poll(0)) is not None:
        rest += [row["n"] for row in batch.to_pylist()]
    consumer.close()
    everything = sorted(n for numbers in stored(log, "events") for n in numbers)
    assert sorted(moved + rest) == everything, "skipped, or moved and delivered again"


def _verify_short(ledger: Ledger, kept: Sequence[Sequence[int]]) -> None:
    known = {n for batch in ledger.begun for n in batch}
    for numbers in kept:
        assert len(numbers) == len(set(numbers)), "twice"
        assert set(numbers) <= known, "never sent"
        for source in {source_of(n) for n in numbers}:
            own = [n for n in numbers if source_of(n) == source]
            assert own == sorted(own), "out of order"
            keys = {n % 7 for n in own}
            young = {n for n in ledger.numbers if source_of(n) == source and n >= own[0]}
            missing = {n for n in young if n % 7 in keys} - set(own)
            assert not missing, f"{sorted(missing)} are gone, and older ones are there"


def _verify_keys(ledger: Ledger, kept: Sequence[Sequence[int]]) -> None:
    found = [n for numbers in kept for n in numbers]
    assert len(found) == len(set(found)), "twice"
    last: dict[tuple[int, int], int] = {}
    for n in sorted(ledger.numbers):
        last[source_of(n), n % 7] = n
    for (source, key), n in last.items():
        # A younger one of its key takes its place: a later one of its own source, or any of another.
        heirs = [m for m in found if m % 7 == key and (source_of(m) != source or m >= n)]
        assert heirs, f"{n} is gone, and nothing came after it"


@pytest.mark.timeout(SECONDS * 3 + 120)
@pytest.mark.parametrize("number", range(RUNS))
def test_nothing_is_lost_by_processes_that_die_at_random(
    number: int, store_path: Path, seed: int, capsys: pytest.CaptureFixture[str]
):
    run = Run(store_path, f"{seed}-{number}")
    end_s = SYSTEM_CLOCK.monotonic_s() + SECONDS
    try:
        while SYSTEM_CLOCK.monotonic_s() < end_s or run.killed < PROCESSES:
            for source in range(PROCESSES):
                if source not in run.workers:
                    run.begin(source)
            run.listen()
    finally:
        for source in list(run.workers):
            run.kill(source)
    with capsys.disabled():
        sys.stdout.write(f"[{run.killed} killed, {run.ended} ended, {len(run.reports)} reports] ")
    with opened(store_path) as log:
        verify(run, log)
        log.upkeep.sweep()
        log.upkeep.sweep()
        verify(run, log)
