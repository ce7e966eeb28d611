"""Limits of attempts: what may be declared, which of several holds, and when one is over."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

import millstream as ms
from millstream.primitives.errors import ConfigurationError, SoftTimeLimitExceeded
from millstream.tasks.attempt_limits import (
    UNLIMITED,
    AttemptLimits,
    Overrun,
    checked,
    memory_over,
    overrun,
    time_over,
)
from millstream.tasks.limits import MEMORY_LIMIT_BYTES_MIN, TIME_LIMIT_US_MAX
from tests.refusals import refused


@pytest.mark.parametrize(
    ("options", "limits"),
    [
        ({}, UNLIMITED),
        ({"time_limit": 30}, AttemptLimits(hard_us=30_000_000)),
        ({"soft_time_limit": 0.5}, AttemptLimits(soft_us=500_000)),
        ({"time_limit": timedelta(minutes=1)}, AttemptLimits(hard_us=60_000_000)),
        ({"memory_limit": "500MB"}, AttemptLimits(memory_bytes=500_000_000)),
    ],
)
def test_a_task_declares_its_limits(options: dict[str, Any], limits: AttemptLimits) -> None:
    @ms.App("limits").task(**options)
    def work() -> None: ...

    assert work.options.limits == limits


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"time_limit": 0}, "hard time limit of 0 s"),
        ({"soft_time_limit": -1}, "soft time limit of -1 s"),
        ({"time_limit": TIME_LIMIT_US_MAX / 1e6 + 1}, "hard time limit"),
        ({"time_limit": 5, "soft_time_limit": 5}, "a soft limit that is shorter"),
        ({"memory_limit": MEMORY_LIMIT_BYTES_MIN - 1}, "memory limit"),
        ({"memory_limit": "much"}, "not an amount of memory"),
    ],
)
def test_limits_that_cannot_be_kept_are_refused(options: dict[str, Any], says: str) -> None:
    with refused(ConfigurationError, says, somewhere=False):
        ms.App("limits").task(**options)


def test_the_largest_limits_are_taken() -> None:
    limits = AttemptLimits(hard_us=TIME_LIMIT_US_MAX, memory_bytes=MEMORY_LIMIT_BYTES_MIN)
    assert checked(limits) is limits


def test_a_call_is_checked_when_it_is_made_ready() -> None:
    @ms.App("limits").task
    def work() -> None: ...

    message = work.s().set(time_limit=2, soft_time_limit=timedelta(seconds=1)).message(0)
    assert (message.soft_time_limit_us, message.time_limit_us) == (1_000_000, 2_000_000)
    with refused(ConfigurationError, "a soft limit that is shorter", "a call of task"):
        work.s().set(time_limit=1, soft_time_limit=2).message(0)


def test_the_call_comes_before_the_task_and_the_task_before_the_worker() -> None:
    call, task = AttemptLimits(soft_us=1), AttemptLimits(soft_us=2, hard_us=20)
    worker = AttemptLimits(soft_us=3, hard_us=30, memory_bytes=300)
    expected = AttemptLimits(soft_us=1, hard_us=20, memory_bytes=300)
    assert call.before(task.before(worker)) == expected
    assert UNLIMITED.before(UNLIMITED) == UNLIMITED
    assert [one.needs_end for one in (call, task, AttemptLimits(memory_bytes=1))] == [
        False,
        True,
        True,
    ]


@pytest.mark.parametrize(
    ("deadline_us", "limit_bytes", "now_us", "memory_bytes", "over"),
    [
        (0, 0, 10**15, 10**12, None),
        (100, 0, 99, 10**12, None),
        (100, 0, 100, 0, Overrun.TIME),
        (0, 500, 10**15, 500, None),
        (0, 500, 0, 501, Overrun.MEMORY),
        (100, 500, 200, 501, Overrun.MEMORY),
    ],
)
def test_which_limit_is_over(
    deadline_us: int, limit_bytes: int, now_us: int, memory_bytes: int, over: Overrun | None
) -> None:
    found = overrun(
        deadline_us=deadline_us,
        memory_limit_bytes=limit_bytes,
        monotonic_us=now_us,
        memory_bytes=memory_bytes,
    )
    assert found is over


def test_errors_say_what_was_over() -> None:
    assert "hard time limit of 2 s" in str(time_over(2_000_000))
    assert "more memory than 500 MB, its limit, 612 MB were seen" in str(
        memory_over(500_000_000, 612_000_000)
    )
    assert "soft time limit" in str(SoftTimeLimitExceeded())
