"""What must be true of a store after each scenario was cut short, by a kill or by a loss of power."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from millstream.engines.local.log import LocalLog
from millstream.testing.crash import run
from tests.simulation import scenarios
from tests.simulation.ledger import Ledger, opened, read_partition, stored, text_of, verify


@dataclass(frozen=True, slots=True)
class Crash:
    """What is left, and what was reported before."""

    path: Path
    reports: Sequence[Any]
    ledger: Ledger

    def numbers(self, kind: str) -> list[int]:
        """Return all numbers of one kind of report."""
        return [n for name, numbers in self.reports if name == kind for n in numbers]


def send_again(left: Crash) -> None:
    """Send again from the first on, and see each once."""
    outcome = run(scenarios.producers, left.path)
    assert not outcome.error, outcome.error
    verify(left.path, left.ledger + Ledger.of(outcome.reports))


def whole_or_gone(left: Crash) -> None:
    """The topic that is deleted is there with all its events, or gone; the other one loses nothing."""
    verify(left.path, left.ledger)
    with opened(left.path) as log:
        if ("deleted", []) in left.reports:
            assert "victim" not in log.topic_names()
        elif "victim" in log.topic_names():
            numbers = sorted(n for p in stored(log, "victim") for n in p)
            times = len(numbers) // 5
            assert numbers == sorted(list(range(5)) * times), "half of it is gone"
        log.upkeep.sweep()
        log.upkeep.sweep()
        known = len(log.topic_names()) * 2
        folders = [f for f in left.path.glob("segments/*") if any(f.iterdir())]
        assert len(folders) <= known, "files of a topic that is gone"


def moved_once(left: Crash) -> None:
    """What a transaction moved is in both topics, and the group stands behind it."""
    with opened(left.path) as log:
        if not {"left", "right"} <= set(log.topic_names()):
            assert not left.reports
            return
        one, other = (sorted(n for p in stored(log, t) for n in p) for t in ("left", "right"))
        assert other == [n + 5_000 for n in one], "one topic without the other"
        assert len(set(one)) == len(one), "moved twice"
        assert set(left.numbers("moved")) <= set(one), "acknowledged and lost"
        # The group goes on exactly behind what was moved.
        rest = _rest(log, "source", "mover")
        assert sorted(one + rest) == sorted(n for p in stored(log, "source") for n in p)


def _rest(log: LocalLog, topic: str, group: str) -> list[int]:
    """Return what a group still reads."""
    consumer = log.consumer(log.topic(topic), group, scenarios.options())
    rest: list[int] = []
    while (batch := consumer.poll(0)) is not None:
        rest += [row["n"] for row in batch.to_pylist()]
    return rest


def read_by_one(left: Crash) -> None:
    """What was committed does not come again, and the rest comes."""
    verify(left.path, left.ledger)
    committed = left.numbers("committed")
    assert len(committed) == len(set(committed)), "committed twice"
    with opened(left.path) as log:
        if "events" not in log.topic_names():
            return
        rest = _rest(log, "events", "readers")
        present = {n for p in stored(log) for n in p}
    # What was delivered may come again until its commit returned, and not after that.
    assert set(left.numbers("delivered")) | set(rest) == present, "skipped"
    assert not set(rest) & set(committed), "committed, and delivered again"


def oldest_gone(left: Crash) -> None:
    """If an event is there, all younger ones of its partition are."""
    sent = [n for batch in left.ledger.acknowledged for n in batch]
    with opened(left.path) as log:
        kept = stored(log) if sent else []
    for numbers in kept:
        assert numbers == sorted(set(numbers))
        routed = {n % 7 for n in numbers}
        from_here = [n for n in sent if n >= min(numbers, default=1_000) and n % 7 in routed]
        missing = [n for n in from_here if n not in numbers]
        assert not missing, f"{missing} are gone, and older ones are there"
    assert not sent or max(sent) in {n for numbers in kept for n in numbers}


def newest_kept(left: Crash) -> None:
    """Each key's last acknowledged event is there, or a younger one."""
    sent = [n for batch in left.ledger.acknowledged for n in batch]
    with opened(left.path) as log:
        if not sent:
            return
        info = log.topic("events")
        rows = [row for p in range(info.partitions) for _, row in read_partition(log, info, p)]
    assert all(row["text"] == text_of(row["n"]) for row in rows)
    numbers = {row["n"] for row in rows}
    assert len(numbers) == len(rows), "twice"
    for key in range(7):
        last = max((n for n in sent if n % 7 == key), default=-1)
        newest = max((n for n in numbers if n % 7 == key), default=-1)
        assert newest >= last, f"the newest of key {key} is {newest}, and {last} is acknowledged"
