"""``kill -9`` at every named step of the store and the log, then reopen and compare.

A scenario runs once undisturbed, to learn how often it reaches each step. Then it runs again for each
step, killed at the first, a middle and the last time. Nothing that was acknowledged may be missing,
nothing may be there twice, no batch by half, and ``check`` must find nothing.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import millstream
from millstream.engines.local.log import LocalLog
from millstream.testing.crash import KillAt, run, steps_in
from tests.simulation import scenarios
from tests.simulation.ledger import (
    Ledger,
    event,
    opened,
    read_partition,
    spec,
    stored,
    text_of,
    verify,
    verify_open,
)

SOURCE = Path(millstream.__file__).parent
OTHERS = ("task.", "flow.")
"""Steps that the tests of tasks and flows kill at."""

Scenario = Callable[..., None]
Prepare = Callable[[Path], Ledger]


@dataclass(frozen=True, slots=True)
class Crash:
    """What a kill left behind."""

    path: Path
    reports: Sequence[Any]
    ledger: Ledger

    def numbers(self, kind: str) -> list[int]:
        """Return all numbers of one kind of report."""
        return [n for name, numbers in self.reports if name == kind for n in numbers]


def nothing(path: Path) -> Ledger:
    """Begin without a store."""
    return Ledger()


def undisturbed(scenario: Scenario, path: Path) -> Counter[str]:
    outcome = run(scenario, path)
    assert not outcome.error, outcome.error
    return outcome.steps


def kills(
    scenario: Scenario, folder: Path, prepare: Prepare = nothing, *, steady: bool = True
) -> Iterator[tuple[KillAt, Path, Ledger]]:
    """Yield where to kill a scenario, and a path that is prepared for it.

    One that is not steady reaches some steps more or less often each time, so the last is not asked for.
    """
    folder.mkdir()
    prepare(folder / "whole")
    for step, count in sorted(undisturbed(scenario, folder / "whole").items()):
        last = count if steady else max(1, count // 2)
        for occurrence in sorted({1, (last + 1) // 2, last}):
            path = folder / f"{step}-{occurrence}"
            yield KillAt(step, occurrence), path, prepare(path)
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def named(kill: KillAt) -> Iterator[None]:
    """Say in a failure where the process was killed."""
    try:
        yield
    except Exception as error:
        raise AssertionError(f"after {kill}: {error}") from error


def crash(scenario: Scenario, path: Path, kill: KillAt, before: Ledger) -> Crash:
    """Run a scenario until it is killed there."""
    outcome = run(scenario, path, kill_at=kill)
    assert outcome.killed, f"{kill} was not reached: {outcome.error}"
    return Crash(path, outcome.reports, before + Ledger.of(outcome.reports))


def survives(
    scenario: Scenario,
    folder: Path,
    look: Callable[[Crash], None] | None = None,
    prepare: Prepare = nothing,
    *,
    steady: bool = True,
) -> None:
    """Kill a scenario everywhere and compare the store with its ledger, or look otherwise."""
    for kill, path, before in kills(scenario, folder, prepare, steady=steady):
        with named(kill):
            left = crash(scenario, path, kill, before)
            if look is not None:
                look(left)
            else:
                verify(path, left.ledger)


def test_appends(tmp_path: Path):
    survives(scenarios.append, tmp_path / "runs")


def test_appends_without_syncs(tmp_path: Path):
    survives(scenarios.append_process, tmp_path / "runs")


def test_group_commits(tmp_path: Path):
    survives(scenarios.group_commit, tmp_path / "runs", steady=False)


def test_checkpoints(tmp_path: Path):
    survives(scenarios.checkpoint, tmp_path / "runs")


def test_merges(tmp_path: Path):
    survives(scenarios.merge, tmp_path / "runs")


def test_numbered_producers(tmp_path: Path):
    """The events of a named producer are sent again from the first on, and each is there once."""
    survives(scenarios.producers, tmp_path / "runs", _send_again)


def _send_again(left: Crash) -> None:
    outcome = run(scenarios.producers, left.path)
    assert not outcome.error, outcome.error
    verify(left.path, left.ledger + Ledger.of(outcome.reports))


def test_another_process_goes_on_at_once(tmp_path: Path):
    """A process that has the store open needs no reopening after another one's death."""
    for kill, path, before in kills(scenarios.append, tmp_path / "runs"):
        if kill.step.startswith("migration."):
            continue  # only the first process migrates
        with named(kill), opened(path) as log:
            survivor = log.create_topic(spec("survivor"))
            left = crash(scenarios.append, path, kill, before)
            verify_open(log, left.ledger)
            log.upkeep.sweep()
            verify_open(log, left.ledger)
            log.append(survivor, event(4))
            assert [n for p in stored(log, "survivor") for n in p] == [4]


def test_deletion_of_a_topic(tmp_path: Path):
    survives(scenarios.delete_topic, tmp_path / "runs", _whole_or_gone)


def _whole_or_gone(left: Crash) -> None:
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


def test_transactions_are_whole(tmp_path: Path):
    survives(scenarios.transaction, tmp_path / "runs", _moved_once)


def _moved_once(left: Crash) -> None:
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


def test_rebalancing_loses_no_event_of_a_group(tmp_path: Path):
    survives(scenarios.rebalance, tmp_path / "runs", _read_by_one)


def _read_by_one(left: Crash) -> None:
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


def test_retention_deletes_the_oldest_only(tmp_path: Path):
    survives(scenarios.retention, tmp_path / "runs", _oldest_gone)


def _oldest_gone(left: Crash) -> None:
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


def test_compaction_keeps_the_last_of_each_key(tmp_path: Path):
    survives(scenarios.compaction, tmp_path / "runs", _newest_kept)


def _newest_kept(left: Crash) -> None:
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


def leave_remains(path: Path) -> Ledger:
    """Leave what a kill in the middle of an append leaves, and files that nobody knows."""
    outcome = run(scenarios.append, path, kill_at=KillAt("append.frame_written", 5))
    assert outcome.killed
    for name in ("0000000000000777.frames", "0000000000000778.frames"):
        (next(path.glob("segments/*")) / name).write_bytes(b"left over")
    return Ledger.of(outcome.reports)


def test_recovery_that_is_killed_itself(tmp_path: Path):
    survives(scenarios.reopen, tmp_path / "runs", _recovered, leave_remains)


def _recovered(left: Crash) -> None:
    assert len(left.ledger.numbers) >= 32
    verify(left.path, left.ledger)
    assert not list(left.path.glob("segments/*/*77?.frames")), "never removed"


def test_every_step_in_the_source_is_one_of_these(tmp_path: Path):
    """A new step without a scenario that reaches it fails here."""
    found = {step for step, _ in steps_in(SOURCE) if not step.startswith(OTHERS)}
    assert len(found) > 20, "the steps were not found"
    reached: set[str] = set()
    for scenario in (
        scenarios.append,
        scenarios.checkpoint,
        scenarios.compaction,
        scenarios.delete_topic,
        scenarios.rebalance,
        scenarios.retention,
        scenarios.transaction,
    ):
        reached |= set(undisturbed(scenario, tmp_path / scenario.__name__))
    leave_remains(tmp_path / "remains")
    reached |= set(undisturbed(scenarios.reopen, tmp_path / "remains"))
    assert found == reached


def test_a_step_that_nobody_knows_is_noticed(tmp_path: Path):
    """The finder of steps finds one in any form of call."""
    code = tmp_path / "code.py"
    code.write_text('from x import reach\nimport t\nreach("a.b")\nt.reach("c.d")\nother("e.f")\n')
    assert {step for step, _ in steps_in(code)} == {"a.b", "c.d"}
