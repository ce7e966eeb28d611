"""``kill -9`` at every named step of the store and the log, then reopen and compare.

A scenario runs once undisturbed, to learn how often it reaches each step. Then it runs again for each
step, killed at the first, a middle and the last time. Nothing that was acknowledged may be missing,
nothing may be there twice, no batch by half, and ``check`` must find nothing.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import millstream
from millstream.testing.crash import KillAt, run, steps_in
from tests.simulation import looks, scenarios
from tests.simulation.ledger import (
    Ledger,
    event,
    opened,
    spec,
    stored,
    verify,
    verify_open,
)

SOURCE = Path(millstream.__file__).parent
OTHERS = ("task.", "flow.", "schedule.", "trigger.", "workflow.", "outbox.", "worker.", "events.")
"""Steps that the tests of tasks and flows kill at."""

Scenario = Callable[..., None]
Prepare = Callable[[Path], Ledger]


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


def crash(scenario: Scenario, path: Path, kill: KillAt, before: Ledger) -> looks.Crash:
    """Run a scenario until it is killed there."""
    outcome = run(scenario, path, kill_at=kill)
    assert outcome.killed, f"{kill} was not reached: {outcome.error}"
    return looks.Crash(path, outcome.reports, before + Ledger.of(outcome.reports))


def survives(
    scenario: Scenario,
    folder: Path,
    look: Callable[[looks.Crash], None] | None = None,
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
    survives(scenarios.producers, tmp_path / "runs", looks.send_again)


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
    survives(scenarios.delete_topic, tmp_path / "runs", looks.whole_or_gone)


def test_transactions_are_whole(tmp_path: Path):
    survives(scenarios.transaction, tmp_path / "runs", looks.moved_once)


def test_rebalancing_loses_no_event_of_a_group(tmp_path: Path):
    survives(scenarios.rebalance, tmp_path / "runs", looks.read_by_one)


def test_retention_deletes_the_oldest_only(tmp_path: Path):
    survives(scenarios.retention, tmp_path / "runs", looks.oldest_gone)


def test_compaction_keeps_the_last_of_each_key(tmp_path: Path):
    survives(scenarios.compaction, tmp_path / "runs", looks.newest_kept)


def leave_remains(path: Path) -> Ledger:
    """Leave what a kill in the middle of an append leaves, and files that nobody knows."""
    outcome = run(scenarios.append, path, kill_at=KillAt("append.frame_written", 5))
    assert outcome.killed
    for name in ("0000000000000777.frames", "0000000000000778.frames"):
        (next(path.glob("segments/*")) / name).write_bytes(b"left over")
    return Ledger.of(outcome.reports)


def test_recovery_that_is_killed_itself(tmp_path: Path):
    survives(scenarios.reopen, tmp_path / "runs", _recovered, leave_remains)


def _recovered(left: looks.Crash) -> None:
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
