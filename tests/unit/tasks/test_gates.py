"""Rates, limits and keys."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.primitives.errors import ConfigurationError
from millstream.tasks.gates import Limit, after_start, interval_of, limit_of, starts_allowed
from millstream.tasks.limits import RATE_CATCH_UP_US, RUNNING_MAX
from millstream.tasks.unique import Unique, unique_key, unique_of

S = 1_000_000


@pytest.mark.parametrize(
    ("rate", "interval_us"),
    [
        ("10/s", 100_000),
        ("10/m", 6 * S),
        ("10/h", 360 * S),
        ("2", S // 2),
        (0.5, 2 * S),
        (" 1 / m ", 60 * S),
    ],
)
def test_rates_mean_what_they_mean_in_celery(rate: str | float, interval_us: int) -> None:
    assert interval_of(rate) == interval_us


@pytest.mark.parametrize("rate", ["", "fast", "0/s", "-1/s", "1/d", 0, "10//s"])
def test_what_is_no_rate_is_refused(rate: str | float) -> None:
    with pytest.raises(ConfigurationError, match="not a rate"):
        interval_of(rate)


def test_limits() -> None:
    assert limit_of("t", concurrency=None, rate=None) is None
    assert limit_of("t", concurrency=3, rate="1/s") == Limit("limit:t", 3, S)
    assert limit_of("t", concurrency=RUNNING_MAX, rate=None) is not None
    for wrong in (0, -1, RUNNING_MAX + 1):
        with pytest.raises(ConfigurationError, match="at once"):
            limit_of("t", concurrency=wrong, rate=None)


@given(
    interval_us=st.integers(1, 100 * S),
    gaps=st.lists(st.integers(0, 10 * S), min_size=1, max_size=60),
)
def test_no_window_holds_more_starts_than_the_rate_allows(
    interval_us: int, gaps: list[int]
) -> None:
    # Every stretch of time holds at most its length divided by the interval, one more, and what may be made up for.
    now_us, next_us = 10**12, 0
    starts: list[int] = []
    for gap in gaps:
        now_us += gap
        for _ in range(
            min(50, starts_allowed(next_us=next_us, interval_us=interval_us, now_us=now_us))
        ):
            starts.append(now_us)
            next_us = after_start(next_us=next_us, interval_us=interval_us, now_us=now_us)
    for first in range(0, len(starts), 7):
        for last in range(first, len(starts), 5):
            span_us = starts[last] - starts[first] + RATE_CATCH_UP_US
            assert last - first <= span_us // interval_us + 1


@given(interval_us=st.integers(1, S), late_us=st.integers(0, 3600 * S))
def test_an_idle_time_earns_no_burst(interval_us: int, late_us: int) -> None:
    allowed = starts_allowed(next_us=0, interval_us=interval_us, now_us=late_us)
    assert 1 <= allowed <= RATE_CATCH_UP_US // interval_us + 1


def test_unique_rules() -> None:
    assert unique_of(False) is None
    assert unique_of(True) == Unique()
    rule = unique_of("10m")
    assert rule is not None
    assert rule.period_us == 600 * S
    for wrong in ("soon", 10, Unique(period="soon")):
        with pytest.raises(ConfigurationError):
            unique_of(wrong)  # type: ignore[arg-type]


def test_keys_of_calls() -> None:
    arguments = {"user": 1, "options": {"b": 1, "a": 2}}
    key = unique_key("t", Unique(), arguments)
    assert key == unique_key("t", Unique(), {"user": 1, "options": {"a": 2, "b": 1}})
    assert key != unique_key("u", Unique(), arguments)
    by_user = Unique(by=("user",))
    assert unique_key("t", by_user, arguments) == unique_key(
        "t", by_user, {"user": 1, "options": {}}
    )
    with pytest.raises(ConfigurationError, match="no parameter") as caught:
        unique_key("t", Unique(by=("usr",)), arguments)
    assert caught.value.expected == "user, options"
