"""What each condition of a trigger compares, decided without a store: clocks, topics that change, files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

import millstream as ms
from millstream.flows.trigger_conditions import (
    CLOCK_BACK_US,
    Arrival,
    AtTimes,
    Gathered,
    TopicFacts,
    file_digest,
)
from millstream.primitives.errors import ConfigurationError, PlanError

MINUTE_US = 60_000_000
DAY_US = 86_400_000_000


@dataclass(frozen=True)
class Facts:
    """What there is, as a test says it."""

    now_us: int = 0
    anchor_us: int = 0
    found: frozenset[bytes] = frozenset()
    ended: int = 0
    stored: TopicFacts | None = None
    appended: tuple[tuple[int, ...], ...] = ()
    asked: list[list[int]] = field(default_factory=list)

    def files(self, arrival: Arrival) -> frozenset[bytes]:
        return self.found

    def finished(self, flow: str) -> int:
        return self.ended

    def topic(self, topic: str) -> TopicFacts | None:
        return self.stored

    def first_us(self, topic: str, offsets: Sequence[int]) -> int | None:
        self.asked.append([*offsets])
        assert self.stored is not None
        times = zip(self.appended, offsets, self.stored.ranges, strict=True)
        found = [us[at - first] for us, at, (first, end) in times if at < end]
        return min(found, default=None)


def stored(note: object) -> object:
    """Return a note as the catalog gives it back."""
    return json.loads(json.dumps(note))


def berlin(text: str) -> int:
    moment = datetime.fromisoformat(text).replace(tzinfo=ZoneInfo("Europe/Berlin"))
    return round(moment.timestamp() * 1e6)


# ---- times --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last", "due"),
    [
        ("2026-03-28T02:30", "2026-03-29T03:00"),  # 02:30 is jumped over
        ("2026-03-29T03:00", "2026-03-30T02:30"),
        ("2026-10-24T02:30", "2026-10-25T02:30"),  # comes twice: the first counts
        ("2026-10-25T02:30", "2026-10-26T02:30"),
    ],
)
def test_a_time_of_day_comes_once_on_each_day_when_clocks_change(last: str, due: str) -> None:
    condition = AtTimes(ms.cron("30 2 * * *", tz="Europe/Berlin"))
    noted = stored(condition.note(Facts(now_us=berlin(last))))
    assert condition.due_us(noted, Facts(now_us=berlin(last) + DAY_US)) == berlin(due)


def test_of_many_times_that_were_missed_the_first_is_due_and_the_run_is_for_all() -> None:
    condition = AtTimes(ms.cron("0 * * * *"))
    facts = Facts(now_us=1_000 * DAY_US + 5)
    assert condition.due_us(0, facts) == 60 * MINUTE_US
    assert condition.due_us(condition.note(facts), facts) == 1_000 * DAY_US + 60 * MINUTE_US


@pytest.mark.parametrize(("back_us", "holds"), [(CLOCK_BACK_US, True), (CLOCK_BACK_US + 1, False)])
def test_a_clock_that_was_an_hour_ahead_is_not_waited_for(back_us: int, holds: bool) -> None:
    condition = AtTimes(ms.every("10m"))
    noted = condition.note(Facts(now_us=DAY_US))
    assert condition.holds(noted, Facts(now_us=DAY_US - back_us)) is holds


def test_an_interval_whose_trigger_is_from_the_future_is_counted_from_the_note() -> None:
    """The trigger was first stored while the clock was a year ahead."""
    condition = AtTimes(ms.every("10m"))
    facts = Facts(now_us=5, anchor_us=365 * DAY_US)
    noted = condition.first(facts)
    assert condition.due_us(noted, facts) == 5 + 10 * MINUTE_US
    assert condition.due_us(noted, replace(facts, anchor_us=1)) == 1 + 10 * MINUTE_US


# ---- events -------------------------------------------------------------------------------------


def test_events_that_retention_deleted_do_not_wait() -> None:
    """p0  ▒▒▒▒▒▒▒▒•••   eleven were appended, three are left"""
    condition = ms.gathered("orders", events=4)
    facts = Facts(now_us=9, stored=TopicFacts(1, ((8, 11),)))
    assert condition.due_us(condition.first(facts), facts) is None
    assert condition.due_us({"topic": 1, "ends": [5]}, facts) is None
    more = replace(facts, stored=TopicFacts(1, ((8, 12),)))
    assert condition.due_us(condition.first(more), more) == 9


def test_what_waits_is_counted_over_all_partitions_from_the_note_on() -> None:
    condition = ms.gathered("orders", events=3)
    before = Facts(now_us=9, stored=TopicFacts(1, ((0, 4), (2, 7))))
    noted = stored(condition.note(before))
    assert condition.due_us(noted, before) is None
    two = replace(before, stored=TopicFacts(1, ((0, 5), (2, 8))))
    assert condition.due_us(noted, two) is None
    assert condition.due_us(noted, replace(two, stored=TopicFacts(1, ((0, 5), (2, 9))))) == 9


def test_a_topic_that_was_made_anew_has_gathered_from_its_beginning() -> None:
    condition = ms.gathered("orders", events=2)
    noted = stored(condition.note(Facts(stored=TopicFacts(1, ((0, 100), (0, 100))))))
    anew = Facts(now_us=9, stored=TopicFacts(2, ((0, 2),)))
    assert condition.due_us(noted, anew) == 9
    assert condition.due_us(noted, Facts(now_us=9)) is None
    assert condition.note(Facts(now_us=9)) is None


def test_the_first_event_that_waits_says_when_and_not_one_that_was_run() -> None:
    condition = ms.gathered("orders", within="1m")
    facts = Facts(now_us=7, stored=TopicFacts(1, ((0, 2), (0, 1))), appended=((1, 2), (3,)))
    assert condition.due_us(condition.first(facts), facts) == 1 + MINUTE_US
    assert condition.due_us({"topic": 1, "ends": [1, 0]}, facts) == 2 + MINUTE_US
    assert condition.due_us(condition.note(facts), facts) is None
    assert facts.asked == [[0, 0], [1, 0], [2, 1]]


@pytest.mark.parametrize(
    ("now_us", "due_us"), [(4 * MINUTE_US, 6 * MINUTE_US), (4 * MINUTE_US - 1, 4 * MINUTE_US - 1)]
)
def test_an_event_of_a_clock_that_was_ahead_waits_no_longer_than_twice(
    now_us: int, due_us: int
) -> None:
    condition = ms.gathered("orders", within="1m")
    facts = Facts(now_us=now_us, stored=TopicFacts(1, ((0, 1),)), appended=((5 * MINUTE_US,),))
    assert condition.due_us(None, facts) == due_us


def test_events_are_noted_under_their_topic_whatever_numbers_the_code_says() -> None:
    some, more = ms.gathered("orders", events=3), ms.gathered("orders", events=4, within="1m")
    assert some.key == more.key != ms.gathered("other", events=3).key
    assert (str(some), str(more)) == ("3 events in orders", "4 events or 60 s after one in orders")
    assert str(ms.gathered("orders", events=1)) == "1 event in orders"


def test_a_topic_may_be_given_as_its_handle() -> None:
    class Handle:
        name = "orders"

    assert ms.gathered(Handle(), events=1) == Gathered("orders", 1, None)


# ---- files --------------------------------------------------------------------------------------


def test_a_file_that_is_new_or_other_is_due_and_one_that_is_gone_is_not() -> None:
    condition = ms.arrival("inbox/*.csv")
    a, b = file_digest("a", 1, 5), file_digest("b", 1, 5)
    none = Facts(now_us=9)
    assert condition.due_us(condition.first(none), none) is None
    both = Facts(now_us=9, found=frozenset({a, b}))
    assert condition.due_us(condition.first(both), both) == 9
    noted = stored(condition.note(both))
    assert condition.due_us(noted, both) is None
    assert condition.due_us(noted, Facts(now_us=9, found=frozenset({a}))) is None
    changed = Facts(now_us=9, found=frozenset({a, file_digest("b", 2, 5)}))
    assert condition.due_us(noted, changed) == 9


def test_a_digest_tells_path_size_and_time_apart() -> None:
    digests = {
        file_digest(*state)
        for state in [("a", 1, 5), ("b", 1, 5), ("a", 2, 5), ("a", 1, 6), ("a\0001", 1, 5)]
    }
    assert {len(digest) for digest in digests} == {8}
    assert len(digests) == 5
    assert file_digest("caf\udce9.csv", 1, 5) != file_digest("caf?.csv", 1, 5)


def test_neither_passwords_nor_options_are_shown() -> None:
    condition = ms.arrival(
        "sftp://ann:s3cret@host/in/*.csv", storage_options={"passphrase": "hush"}
    )
    assert str(condition) == "files arrive in sftp://host/in/*.csv"
    assert "s3cret" not in f"{condition!r} {condition.key}"
    assert "hush" not in f"{condition!r} {condition.key}"
    assert condition.options == {"passphrase": "hush"}


def test_options_are_for_other_file_systems() -> None:
    with pytest.raises(PlanError, match="storage_options are for URLs"):
        ms.arrival("inbox", storage_options={"key": "x"})
    assert ms.arrival("file:///var/inbox").path == "/var/inbox"


@pytest.mark.parametrize("wrong", [lambda: ms.arrival(5), lambda: ms.gathered(None, events=1)])
def test_what_names_nothing_is_refused(wrong: object) -> None:
    with pytest.raises(ConfigurationError, match="not empty"):
        wrong()  # type: ignore[operator]


def test_an_end_counts_once() -> None:
    condition = ms.after("ingest")
    noted = stored(condition.note(Facts(ended=3)))
    assert condition.due_us(noted, Facts(ended=3, now_us=9)) is None
    assert condition.due_us(noted, Facts(ended=4, now_us=9)) == 9
