"""Many short tasks, one long one."""

from __future__ import annotations

import pytest

from millstream.tasks.claim_size import ClaimSize
from millstream.tasks.limits import CLAIM_GOAL_US, CLAIM_TASKS_MAX


def settled(task_us: int) -> int:
    size = ClaimSize()
    for _ in range(20):
        size.observe(tasks=size.tasks, process_us=size.tasks * task_us)
    return size.tasks


@pytest.mark.parametrize(
    ("task_us", "tasks"),
    [(0, CLAIM_TASKS_MAX), (10, CLAIM_TASKS_MAX), (1_000, 50), (CLAIM_GOAL_US, 1), (10**9, 1)],
)
def test_the_claim_fits_the_goal(task_us: int, tasks: int) -> None:
    assert settled(task_us) == tasks


def test_it_starts_with_one_and_doubles_at_most() -> None:
    size = ClaimSize()
    seen = []
    for _ in range(10):
        seen.append(size.tasks)
        size.observe(tasks=size.tasks, process_us=0)
    assert seen == [1, 2, 4, 8, 16, 32, 64, 128, 256, 256]


def test_one_long_task_counts_at_once() -> None:
    size = ClaimSize()
    for _ in range(10):
        size.observe(tasks=1, process_us=1)
    size.observe(tasks=1, process_us=10 * CLAIM_GOAL_US)
    assert size.tasks == 1


def test_nothing_run_changes_nothing() -> None:
    size = ClaimSize()
    size.observe(tasks=0, process_us=10**9)
    assert size.tasks == 1
