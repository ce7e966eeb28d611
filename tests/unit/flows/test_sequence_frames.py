"""Sequences of frames: columns, rows that wait, stops, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import patch

import polars as pl
import pytest

import millstream as ms
from millstream.flows.sequence_output import Gap
from millstream.primitives.errors import PayloadError, PlanError, SchemaError, StepError
from tests.refusals import refused

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def frame(*numbers: int, key: Any = "k", after_s: float = 0) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "key": [key] * len(numbers),
            "seq": list(numbers),
            "at": [NOON + timedelta(seconds=after_s)] * len(numbers),
            "list": [[n, None] for n in numbers],
            "day": [NOON.date()] * len(numbers),
        }
    )


def sequencer(**options: Any) -> Any:
    chosen = ms.SequenceOptions(**{"start": 1, **options})
    return ms.sequence_frames(chosen, key="key", seq="seq", time="at")


def test_rows_come_out_in_order_with_all_their_columns():
    machine = sequencer()
    assert machine.feed(frame(2, 1, 4)).ordered.equals(frame(1, 2))
    assert machine.feed(frame(3)).ordered.equals(frame(3, 4))
    assert (machine.counts.ordered, machine.awaited("k")) == (4, 5)


def test_rows_of_many_batches_wait_and_are_given_at_the_deadline():
    machine = sequencer()
    for n in (4, 3, 6):
        assert machine.feed(frame(n)).ordered.height == 0
    due = machine.due_us
    out = machine.advance(due)
    assert out.ordered.equals(frame(3, 4, 6))
    assert [(gap.first, gap.last) for gap in out.gaps] == [(1, 2), (5, 5)]


def test_late_rows_and_duplicates_come_with_what_they_say():
    machine = sequencer()
    machine.feed(frame(1, 3))
    out = machine.feed(frame(2, 3, after_s=5))
    [late], [twice] = out.late, out.duplicates
    assert late.event.payload == frame(2, after_s=5).row(0, named=True)
    assert twice.event.payload == frame(3, after_s=5).row(0, named=True)
    assert twice.same is True  # though its time is another one


def test_rows_that_wait_survive_a_stop_with_their_types():
    machine = sequencer(gap="hold")
    machine.feed(frame(1, 3))
    again = ms.sequence_frames(
        machine.options, key="key", seq="seq", time="at", kept=machine.dump()
    )
    assert again.feed(frame(2)).ordered.equals(frame(2, 3))


def test_a_stop_invents_no_losses_of_rows_either():
    options = ms.SequenceOptions(start=1)
    machine = ms.sequence_frames(options, key="key", seq="seq")
    machine.feed(frame(2), now_us=0)
    again = ms.sequence_frames(options, key="key", seq="seq", kept=machine.dump(), now_us=10**12)
    assert again.feed(frame(1), now_us=10**12 + 1_999_999).ordered.height == 2


def test_bytes_of_something_else_are_refused():
    for other in (ms.Sequencer().dump(), b"\x90"):
        with refused(PayloadError, "no dump of a sequencer of frames"):
            ms.sequence_frames(key="key", seq="seq", kept=other)


def test_digests_of_another_version_of_polars_are_not_compared(monkeypatch: pytest.MonkeyPatch):
    machine = sequencer()
    machine.feed(frame(1))
    kept = machine.dump()
    monkeypatch.setattr(pl, "__version__", "99")
    again = type(machine).load(kept, machine.options, key="key", seq="seq", time="at")
    assert again.feed(frame(1)).duplicates[0].same is None
    assert again.counts.conflicts == 0


def test_a_frame_without_rows_moves_nothing():
    machine = sequencer()
    assert machine.feed(frame().cast(frame(1).schema)).taken == 0
    machine.feed(frame(2))
    assert machine.feed(frame().cast(frame(1).schema)).ordered.schema == frame(1).schema
    assert machine.end().ordered.equals(frame(2))


def test_without_other_columns_duplicates_say_the_same():
    machine = ms.sequence_frames(ms.SequenceOptions(start=1), key="key", seq="seq", time="at")
    few = frame(1).select("key", "seq", "at")
    machine.feed(few)
    assert machine.feed(few).duplicates[0].same is True


def test_what_is_missing_is_asked_for_once_a_call():
    calls: list[Any] = []
    options = ms.SequenceOptions(gap="request", start=1)
    machine = ms.sequence_frames(options, key="key", seq="seq", time="at", resend=calls.append)
    machine.feed(frame(2, 3, 4))
    assert [[(r.first, r.last) for r in call] for call in calls] == [[(1, 1)]]
    machine.advance(machine.due_us)
    assert len(calls) == 2


def test_a_source_is_held_back_row_by_row():
    machine = sequencer(gap="hold", overflow="block", max_events=1)
    assert machine.feed(frame(2, 3)).taken == 1
    assert machine.feed(frame(1)).ordered.equals(frame(1, 2))


def test_fail_stops():
    machine = sequencer(gap="fail")
    machine.feed(frame(2))
    with refused(StepError, "lacks 1"):
        machine.feed(frame(3, after_s=2))
    with refused(StepError, "lacks 1"):
        machine.feed(frame(1))


def test_a_limit_of_all_keys_is_kept():
    machine = sequencer(max_keys=2)
    machine.feed(pl.concat([frame(1, key=key) for key in "abc"]))
    assert [machine.awaited(key) for key in "abc"] == [None, 2, 2]
    many = sequencer(max_bytes=150)
    out = many.feed(pl.concat([frame(2, 3, 4, key=key) for key in "ab"]))
    assert many.counts.buffered_bytes <= 150
    assert out.gaps[0] == Gap("a", 1, 1, out.gaps[0].opened_us, out.gaps[0].closed_us, "overflow")


def one_by_one(machine: Any, rows: pl.DataFrame) -> int:
    """Feed rows, and return how many of them could not pass at once."""
    counted = []
    take_each = type(machine)._take_each

    def spy(self: Any, batch: Any, those: Any, out: Any) -> None:
        counted.append(len(those))
        take_each(self, batch, those, out)

    with patch.object(type(machine), "_take_each", spy):
        machine.feed(rows)
    return sum(counted)


def at(*events: tuple[int, float]) -> pl.DataFrame:
    """Numbers of one key, each at its second."""
    return pl.concat([frame(n, after_s=second) for n, second in events])


def test_what_follows_on_once_it_is_sorted_passes_at_once():
    machine = sequencer()
    assert one_by_one(machine, frame(3, 1, 2, 4)) == 0
    assert machine.awaited("k") == 5


def test_only_what_lies_behind_a_gap_and_what_comes_twice_goes_one_by_one():
    machine = sequencer()
    assert one_by_one(machine, frame(1, 4, 2, 2)) == 2
    assert (machine.awaited("k"), machine.counts.duplicates) == (3, 1)


def test_what_waits_passes_with_what_it_waited_for():
    machine = sequencer()
    machine.feed(frame(2, 4))
    assert one_by_one(machine, frame(1)) == 0
    assert (machine.awaited("k"), machine.counts.buffered) == (3, 1)
    assert one_by_one(machine, frame(5, 3)) == 0
    assert (machine.awaited("k"), machine.counts.buffered) == (6, 0)


def test_a_number_that_comes_at_the_deadline_of_its_gap_is_late():
    #    2 at 0 s     1 at 2 s: closed
    machine = sequencer()
    assert len(machine.feed(at((2, 0), (1, 2))).late) == 1
    machine = sequencer()
    assert machine.feed(at((2, 0), (1, 1.999999))).ordered.height == 2


def test_a_number_that_comes_at_the_deadline_of_a_gap_of_before_is_late():
    machine = sequencer()
    machine.feed(at((2, 0)))
    assert len(machine.feed(at((1, 2))).late) == 1
    machine = sequencer()
    machine.feed(at((2, 0)))
    assert machine.feed(at((1, 1.999999))).ordered.height == 2


def test_events_that_wait_count_while_they_do_though_all_come_in_one_batch():
    rows = frame(2, 3, 4, 1)
    few = sequencer(max_events=2)
    assert (few.feed(rows).gaps[0].reason, few.counts.late) == ("overflow", 1)
    size = -(-rows.estimated_size() // rows.height)
    small = sequencer(max_bytes=2 * size)
    assert (small.feed(rows).gaps[0].reason, small.counts.late) == ("overflow", 1)


def test_a_key_is_forgotten_between_batches_and_within_one():
    machine = sequencer(forget="10s", gap="hold")
    machine.feed(at((1, 0)))
    assert machine.feed(at((2, 20))).ordered.height == 0
    assert machine.counts.forgotten == 1
    machine = sequencer(forget="10s", gap="hold")
    assert machine.feed(at((1, 0), (2, 20))).ordered.height == 1
    assert machine.counts.forgotten == 1


def test_a_key_was_heard_when_its_last_event_came_though_others_go_after_it():
    #    3 waits, at 0 s; 1 passes, at 9 s: at 18 s the key is still known
    machine = sequencer(forget="10s", wait="9500ms")
    machine.feed(at((3, 0), (1, 9)))
    machine.advance(machine.due_us)
    machine.feed(at((4, 18)))
    assert (machine.counts.forgotten, machine.awaited("k")) == (0, 5)


def test_the_oldest_gap_is_known_where_the_first_one_of_a_key_was_filled():
    """There is room for six rows. Of key a, 1 and 3 are missing; 1 comes, and 3 is missing since its eighth second."""
    machine = sequencer(max_bytes=6 * frame(2).estimated_size(), gap="hold")
    closed: list[Any] = []

    def take(key: str, n: int, second: float) -> None:
        out = machine.feed(frame(n, key=key, after_s=second))
        closed.extend((gap.key, gap.first) for gap in out.gaps)

    for second, key in enumerate("pqrstuv"):
        take(key, 2, second)
    take("a", 2, 7)
    take("a", 4, 8)
    assert closed == [("p", 1), ("q", 1), ("r", 1)]
    take("v", 1, 9)
    take("a", 1, 10)
    for second, key in enumerate("bcdefg", start=11):
        take(key, 2, second)
    assert closed[3:] == [("s", 1), ("t", 1), ("u", 1), ("a", 3)]


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (frame(1).drop("seq"), "seq"),
        (frame(1).with_columns(pl.lit(None, pl.Int64).alias("seq")), "null in 1 rows"),
        (frame(1).with_columns(pl.lit(None, pl.String).alias("key")), "'key' is null"),
        (frame(1).with_columns(seq=pl.lit("x")), "String"),
        (frame(1).with_columns(seq=pl.lit(2**63, pl.UInt64)), "64 bits"),
        (frame(1).with_columns(at=pl.lit(1.5)), "Float64"),
    ],
)
def test_columns_that_do_not_fit_are_refused(bad: pl.DataFrame, said: str):
    with refused(SchemaError, said):
        sequencer().feed(bad)


def test_other_columns_than_before_and_numbers_beyond_the_modulo_are_refused():
    machine = sequencer()
    machine.feed(frame(1))
    with refused(SchemaError, "the same in each frame"):
        machine.feed(frame(2).drop("day"))
    with refused(SchemaError, "from 0 to 65,535"):
        ms.sequence_frames(ms.audio_video(), key="key", seq="seq", time="at").feed(frame(65_536))
    with refused(SchemaError, "what time it is"):
        ms.sequence_frames(key="key", seq="seq").feed(frame(1))
    with refused(PlanError, "resend"):
        ms.sequence_frames(key="key", seq="seq", resend=print)
