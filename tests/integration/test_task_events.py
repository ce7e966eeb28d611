"""The stream of changes with real processes: followed while it is written, through deaths, and within its bound."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

import millstream as ms
from millstream.tasks.events import TaskChange
from millstream.tasks.limits import (
    EVENTS_KEPT_MAX,
    EVENTS_PRUNED_AT,
    EVENTS_READ_MAX,
    TASKS_PER_COMMIT_MAX,
)
from millstream.tasks.states import TaskState
from tests.integration.tasks_processes import PATIENCE_S, ROOT, Site, site
from tests.integration.tasks_shop import flaky, poison, square


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with site(tmp_path, "process", monkeypatch) as opened:
        yield opened


def lives(changes: list[TaskChange]) -> dict[str, list[TaskState | None]]:
    """Return the states of each task in their order, and check that one follows from the other."""
    states: dict[str, list[TaskState | None]] = defaultdict(list)
    for change in changes:
        known = states[change.id]
        assert change.before == (known[-1] if known else None)
        known.append(change.after)
    return states


def test_changes_are_followed_while_workers_make_them(shop: Site) -> None:
    shop.app.events.enable()
    follow = shop.app.events.follow(timeout_s=PATIENCE_S)
    with shop.worker("--concurrency", "2"):
        results = square.enqueue_many(square.s(n) for n in range(20))
        missing, changes = {one.id for one in results}, []
        for change in follow:
            changes.append(change)
            if change.after is TaskState.SUCCEEDED:
                missing.remove(change.id)
            if not missing:
                break
    wanted = [TaskState.QUEUED, TaskState.RUNNING, TaskState.SUCCEEDED]
    assert list(lives(changes).values()) == [wanted] * 20
    workers = {change.worker for change in changes if change.after is TaskState.SUCCEEDED}
    assert all(worker is not None and ":" in worker for worker in workers)


@pytest.mark.parametrize("step", ["task.claiming", "commit.before", "commit.visible"])
def test_a_killed_worker_leaves_no_change_out_and_tells_none_twice(shop: Site, step: str) -> None:
    shop.app.events.enable()
    results = square.enqueue_many(square.s(n) for n in range(5))
    shop.burst("--concurrency", "1", SHOP_KILL_AT=step)
    changes = list(shop.app.events.follow(after=0, timeout_s=0))
    assert [change.seq for change in changes] == list(range(1, len(changes) + 1))
    for one in results:
        assert lives(changes)[one.id][-1] == one.state == TaskState.SUCCEEDED


def test_deaths_and_retries_are_seen(shop: Site) -> None:
    shop.app.events.enable()
    wrong, deadly = flaky.delay(1), poison.delay()
    shop.burst("--concurrency", "1")
    known = lives(list(shop.app.events.follow(after=0, timeout_s=0)))
    again = [TaskState.RUNNING, TaskState.RETRYING, TaskState.QUEUED]
    assert known[wrong.id] == [TaskState.QUEUED, *again, *again, *again[:1], TaskState.FAILED]
    assert known[deadly.id] == [
        *[TaskState.QUEUED, TaskState.RUNNING] * 3,
        TaskState.FAILED,
    ]


def test_the_command_follows_in_another_process(shop: Site) -> None:
    shop.app.events.enable()
    square.delay(1)
    command = [sys.executable, "-m", "millstream", "events", "--all", "--json", str(shop.path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        assert (first["seq"], first["before"], first["after"]) == (1, None, "queued")
        second_id = square.delay(2).id
        second = json.loads(process.stdout.readline())
        assert (second["id"], second["name"]) == (second_id, square.name)
        shop.app.events.disable()  # Nothing comes any more, so it ends.
        assert process.wait(PATIENCE_S) == 0


def test_a_sleeping_follower_is_woken(shop: Site) -> None:
    shop.app.events.enable()
    found: list[TaskChange] = []
    follow = shop.app.events.follow(timeout_s=PATIENCE_S)
    reader = threading.Thread(target=lambda: found.append(next(follow)))
    reader.start()
    result = square.delay(1)
    reader.join(PATIENCE_S)
    assert [one.id for one in found] == [result.id]


def test_no_more_than_a_bound_are_kept_and_a_reader_learns_what_it_missed(
    store_path: Path,
) -> None:
    with ms.App("shop", store=store_path, durability="process") as app:

        @app.task
        def noop(n: int) -> None: ...

        app.events.enable()
        noop.delay(0)
        reader = app.events.follow(after=0, timeout_s=0)
        assert next(reader).missed == 0
        count = EVENTS_KEPT_MAX + EVENTS_PRUNED_AT
        for start in range(1, count, TASKS_PER_COMMIT_MAX):
            stop = min(count, start + TASKS_PER_COMMIT_MAX)
            noop.enqueue_many(noop.s(n) for n in range(start, stop))
        app.tasks_engine.recover()
        assert sum(1 for _ in app.events.follow(after=0, timeout_s=0)) == count
        noop.delay(-1)
        app.tasks_engine.recover()
        following = next(reader)
        assert following.missed == EVENTS_PRUNED_AT
        assert following.seq == EVENTS_PRUNED_AT + 2
        rest = list(reader)
        assert len(rest) == EVENTS_KEPT_MAX - 1 > EVENTS_READ_MAX
        assert not any(change.missed for change in rest)
