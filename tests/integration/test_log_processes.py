"""Several real processes append to one topic and read it as one group, while some are killed and frozen.

Nothing is lost, nothing that was committed is delivered again, and committed positions never go back:
a trigger in the catalog keeps every change of them in the order of the commits.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count, pairwise
from multiprocessing.connection import wait
from pathlib import Path
from random import Random
from typing import Any

import pytest

from millstream.engines.local.log import LocalLog
from millstream.log.definition import TopicInfo
from millstream.testing.crash import Running, start
from tests.simulation import members
from tests.simulation.ledger import (
    SOURCE_EVENTS,
    Ledger,
    events,
    opened,
    spec,
    stored,
)

PARTITIONS = 4
PATIENCE_S = 60.0


class Crew:
    """The processes of one test."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.running: list[Running] = []
        self.reports: list[tuple[str, Any]] = []

    def start(self, work: Callable[..., None], *arguments: Any) -> Running:
        """Start a process."""
        running = start(work, self.path, *arguments)
        self.running.append(running)
        return running

    def listen(self) -> tuple[Running, tuple[str, Any]]:
        """Return the next report of anybody."""
        ready = wait([running.pipe for running in self.running], PATIENCE_S)
        assert ready, "nobody said anything"
        [running] = [r for r in self.running if r.pipe is ready[0]]
        try:
            report = running.next_report(PATIENCE_S)
        except EOFError:
            raise AssertionError(f"a process ended: {running.outcome.error}") from None
        self.reports.append(report)
        return running, report

    def hear(self, kind: str, running: Running | None = None) -> Any:
        """Listen until somebody, or one process, says that; return what it says."""
        while True:
            who, (said, value) = self.listen()
            if said == kind and running in (None, who):
                return value

    def kill(self, running: Running) -> None:
        """Kill it, and take in what it said before."""
        running.kill()
        self.running.remove(running)
        known = len(running.outcome.reports)
        outcome = running.wait()
        assert not outcome.error, outcome.error
        self.reports += outcome.reports[known:]

    def dismiss(self) -> None:
        """Kill everybody."""
        for running in list(self.running):
            self.kill(running)


@contextmanager
def crew(path: Path) -> Iterator[Crew]:
    """Gather processes, and let none of them outlive the test."""
    gathered = Crew(path)
    try:
        yield gathered
    finally:
        gathered.dismiss()


def topic(log: LocalLog) -> TopicInfo:
    info = log.create_topic(spec(partitions=PARTITIONS))
    members.watch_positions(log.store.path)
    return info


def read_all(team: Crew, log: LocalLog, info: TopicInfo, last: list[int]) -> None:
    """Append the last events, one a partition, and wait until each is committed."""
    for number, n in enumerate(last):
        log.append(info, events([n]), partition=number)
    missing = set(last)
    while missing:
        missing -= set(team.hear("committed"))


def verify_group(team: Crew, path: Path, sent: list[int], info: TopicInfo) -> None:
    """Look that everything was delivered and committed once, in unbroken steps forward."""
    delivered = {n for kind, numbers in team.reports if kind == "delivered" for n in numbers}
    assert delivered == set(sent), f"never delivered: {sorted(set(sent) - delivered)}"
    committed = [n for kind, numbers in team.reports if kind == "committed" for n in numbers]
    assert len(committed) == len(set(committed)), "committed by two members"
    history = members.position_history(path)
    assert set(history) == set(info.partition_ids)
    for changes in history.values():
        assert changes[0] == (None, 0)
        assert all(before < after for before, after in changes[1:] if before is not None)
        assert all(a[1] == b[0] for a, b in pairwise(changes)), "a step is missing"


@pytest.mark.parametrize("work", [members.read_for_ever, members.move_for_ever])
def test_killed_members_lose_no_event(work: Callable[..., None], store_path: Path, seed: int):
    """Members that only read, and members that move each event to another topic in a transaction."""
    random = Random(seed)
    numbers = count()
    sent: list[int] = []
    with opened(store_path) as log, crew(store_path) as team:
        info = topic(log)
        log.create_topic(spec("moved"))
        for _ in range(3):
            team.start(work)
        for _ in range(8):
            batch = [next(numbers) for _ in range(30)]
            log.append(info, events(batch))
            sent += batch
            for _ in range(random.randint(1, 6)):
                team.listen()
            team.kill(random.choice(team.running))
            team.start(work)
        last = [next(numbers) for _ in range(PARTITIONS)]
        read_all(team, log, info, last)
        team.dismiss()
        verify_group(team, store_path, sent + last, info)
        assert all(lag.events == 0 for lag in log.lag(info)[members.GROUP])
        moved = sorted(n for p in stored(log, "moved") for n in p)
        assert moved == (sent + last if work is members.move_for_ever else [])


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc to see who is stopped")
def test_a_frozen_member_is_replaced_and_its_late_commit_refused(store_path: Path):
    with opened(store_path) as log, crew(store_path) as team:
        info = topic(log)
        log.append(info, events(range(40)))
        frozen = team.start(members.freeze_and_go_on)
        pid = team.hear("freezing", frozen)
        while state_of(pid) != "T":
            os.sched_yield()
        # It had joined alone, so it holds every partition; the second one gets them when the session is over.
        other = team.start(members.read_for_ever)
        while any(lag.events for lag in log.lag(info)[members.GROUP]):
            team.hear("committed", other)
        os.kill(pid, signal.SIGCONT)
        late = team.hear("fenced", frozen)
        assert late
        # It is a member again, reads its share, and nothing of the past.
        read_all(team, log, info, list(range(100, 100 + PARTITIONS)))
        team.dismiss()
        verify_group(team, store_path, [*range(40), *range(100, 100 + PARTITIONS)], info)


@pytest.mark.parametrize("work", [members.append_for_ever, members.send_for_ever])
def test_killed_appenders_lose_nothing_and_repeat_nothing(
    work: Callable[..., None], store_path: Path, seed: int
):
    """One appends again what it does not know to be stored, under a name; the other goes on behind it."""
    random = Random(seed)
    with opened(store_path) as log, crew(store_path) as team:
        log.create_topic(spec(partitions=PARTITIONS))
        sources = {team.start(work, i * SOURCE_EVENTS): i for i in range(3)}
        for _ in range(10):
            for _ in range(random.randint(5, 60)):
                team.listen()
            victim = random.choice(team.running)
            team.kill(victim)
            source = sources.pop(victim)
            begun = [n for r in team.reports if r[0] == "begin" for n in r[1]]
            behind = max((n + 1 for n in begun if n // SOURCE_EVENTS == source), default=0)
            first = source * SOURCE_EVENTS
            again = first if work is members.send_for_ever else max(first, behind)
            sources[team.start(work, again)] = source
        team.dismiss()
        ledger = Ledger.of(team.reports)
        assert len(ledger.numbers) > 50
        ledger.verify_numbers(stored(log))
