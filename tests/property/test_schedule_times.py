"""Cron against a clock that is read minute by minute, over the days on which clocks are changed."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.primitives.errors import ConfigurationError
from millstream.primitives.schedule_times import cron, every, first_due

# The days around a change, with what is odd about it.
CHANGES = [
    ("Europe/Berlin", (2026, 3, 29)),  # 02:00 -> 03:00
    ("Europe/Berlin", (2026, 10, 25)),  # 03:00 -> 02:00
    ("America/New_York", (2026, 3, 8)),
    ("America/New_York", (2026, 11, 1)),
    ("America/Sao_Paulo", (2018, 11, 4)),  # midnight does not exist
    ("America/Sao_Paulo", (2018, 2, 18)),  # the hour before midnight comes twice
    ("Australia/Lord_Howe", (2026, 10, 4)),  # half an hour
    ("Australia/Lord_Howe", (2026, 4, 5)),
    ("Asia/Beirut", (2026, 3, 29)),
    ("Pacific/Apia", (2011, 12, 30)),  # a whole day does not exist
    ("Africa/Casablanca", (2026, 2, 15)),
    ("Asia/Kathmandu", (1986, 1, 1)),  # a quarter of an hour
    ("UTC", (2028, 2, 29)),
]
DAYS = 2
MINUTE = timedelta(minutes=1)

Field = tuple[str, set[int]]


def field(low: int, high: int) -> st.SearchStrategy[Field]:
    """A field as text, and by itself, what it means."""
    values = st.integers(low, high)
    span = st.tuples(values, values).map(sorted)
    step = st.integers(1, high)
    return st.one_of(
        st.just(("*", set(range(low, high + 1)))),
        values.map(lambda v: (str(v), {v})),
        st.sets(values, min_size=2, max_size=4).map(lambda s: (",".join(map(str, s)), s)),
        span.map(lambda s: (f"{s[0]}-{s[1]}", set(range(s[0], s[1] + 1)))),
        step.map(lambda n: (f"*/{n}", set(range(low, high + 1, n)))),
        st.tuples(span, step).map(
            lambda t: (f"{t[0][0]}-{t[0][1]}/{t[1]}", set(range(t[0][0], t[0][1] + 1, t[1])))
        ),
    )


def fits(wall: datetime, fields: list[Field]) -> bool:
    minute, hour, day, month, weekday = fields
    if wall.minute not in minute[1] or wall.hour not in hour[1] or wall.month not in month[1]:
        return False
    in_month, in_week = wall.day in day[1], wall.isoweekday() % 7 in weekday[1]
    if day[0].startswith("*") or weekday[0].startswith("*"):
        return in_month and in_week
    return in_month or in_week


def expected(fields: list[Field], zone: ZoneInfo, start: datetime, end: datetime) -> list[datetime]:
    """Walk minute by minute. What is jumped over comes at the end of the jump, what is repeated comes once."""
    daily = not fields[0][0].startswith("*") and not fields[1][0].startswith("*")
    found = []
    seen: set[datetime] = set()
    # Two days earlier, so that it is known what was shown before.
    moment = start - timedelta(days=2)
    before = moment.astimezone(zone).replace(tzinfo=None) - MINUTE
    while moment <= end:
        wall = moment.astimezone(zone).replace(tzinfo=None)
        due = fits(wall, fields)
        if daily:
            due = due and wall not in seen
            jumped = before + MINUTE
            while jumped < wall:
                due = due or fits(jumped, fields)
                jumped += MINUTE
            seen.add(wall)
        if due and moment > start:
            found.append(moment)
        before = wall
        moment += MINUTE
    return found


@settings(max_examples=100)
@given(
    change=st.sampled_from(CHANGES),
    fields=st.tuples(field(0, 59), field(0, 23), field(1, 31), field(1, 12), field(0, 6)).map(list),
    wide=st.booleans(),
    offset=st.integers(-26 * 60, 20 * 60),
)
def test_cron_is_what_the_clock_shows(
    change: tuple[str, tuple[int, int, int]], fields: list[Field], wide: bool, offset: int
) -> None:
    name, day = change
    zone = ZoneInfo(name)
    if wide:  # Most random dates never come within two days.
        fields[2:] = [("*", set(range(1, 32))), ("*", set(range(1, 13))), ("*", set(range(7)))]
    start = datetime(*day, tzinfo=UTC) + timedelta(minutes=offset)
    end = start + timedelta(days=DAYS)
    try:
        times = cron(" ".join(text for text, _ in fields), tz=name)
    except ConfigurationError:
        # Only a day that no month of it has.
        assert min(fields[2][1]) > 29
        return
    found = []
    for due_us in times.dues(_us(start), anchor_us=0):
        if due_us > _us(end):
            break
        found.append(due_us)
    assert found == [_us(moment) for moment in expected(fields, zone, start, end)]


def _us(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


@given(
    change=st.sampled_from(CHANGES),
    expression=st.sampled_from(["30 2 * * *", "*/7 * * * *", "0 0 * * *", "15,45 1-3 * * *"]),
    cuts=st.lists(st.integers(0, 3 * 86_400_000_000), min_size=1, max_size=20),
)
def test_asking_again_goes_on_where_it_was(
    change: tuple[str, tuple[int, int, int]], expression: str, cuts: list[int]
) -> None:
    times = cron(expression, tz=change[0])
    start_us = _us(datetime(*change[1], tzinfo=UTC) - timedelta(days=1))
    dues = list(islice(times.dues(start_us, anchor_us=0), 1500))
    assert all(a < b for a, b in pairwise(dues))
    for cut in cuts:
        after_us = start_us + cut
        following = [due for due in dues if due > after_us]
        if following:
            assert first_due(times, after_us, anchor_us=0) == following[0]


@given(st.text(alphabet="0123456789*/-,#LWmonSUN @", max_size=20))
def test_nonsense_is_refused_in_our_words(text: str) -> None:
    with contextlib.suppress(ConfigurationError):
        cron(text)


@given(
    interval_us=st.integers(10_000, 10**13),
    anchor_us=st.integers(0, 2 * 10**15),
    after_us=st.integers(0, 3 * 10**15),
)
def test_intervals_do_not_drift(interval_us: int, anchor_us: int, after_us: int) -> None:
    times = every(timedelta(microseconds=interval_us))
    dues = list(islice(times.dues(after_us, anchor_us=anchor_us), 5))
    assert all((due - anchor_us) % interval_us == 0 for due in dues)
    assert all(b - a == interval_us for a, b in pairwise(dues))
    assert dues[0] > max(after_us, anchor_us)
    assert dues[0] - interval_us <= max(after_us, anchor_us)


@pytest.mark.parametrize(
    ("expression", "tz", "after", "due"),
    [
        ("30 2 * * *", "Europe/Berlin", (2026, 3, 28, 12), (2026, 3, 29, 1, 0)),
        ("30 2 * * *", "Europe/Berlin", (2026, 10, 24, 12), (2026, 10, 25, 0, 30)),
        ("30 2 * * *", "Europe/Berlin", (2026, 10, 25, 0, 30), (2026, 10, 26, 1, 30)),
        ("0 9 * * mon-fri", "Europe/Berlin", (2026, 7, 3, 8), (2026, 7, 6, 7, 0)),
        ("0 0 29 2 *", "UTC", (2026, 1, 1), (2028, 2, 29, 0, 0)),
        ("0 0 L * *", "UTC", (2026, 2, 1), (2026, 2, 28, 0, 0)),
        ("0 0 * * mon#2", "UTC", (2026, 6, 1), (2026, 6, 8, 0, 0)),
        ("@daily", "America/New_York", (2026, 1, 1, 6), (2026, 1, 2, 5, 0)),
    ],
)
def test_by_name(expression: str, tz: str, after: tuple[int, ...], due: tuple[int, ...]) -> None:
    found = first_due(cron(expression, tz=tz), _us(_utc(after)), anchor_us=0)
    assert found == _us(_utc(due))


def _utc(parts: tuple[int, ...]) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[arg-type, misc]
