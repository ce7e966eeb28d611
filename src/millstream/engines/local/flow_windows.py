"""The kinds of windows in Polars: which groups a row goes into, when they are complete, and what they give.

State is a frame of groups. Two parts of one group, from two micro-batches, lie in it side by side until they are
merged; each kind says what belongs together:

    kind                  a row of state                        complete when the watermark reaches
    tumbling, calendar    a window and keys                     the window's end
    hopping               the same; a row of data has several   the window's end
    session               a stretch of one key's events         its last event + the gap
    sliding               one time and keys                     the microsecond after that time

A group that is complete never changes again, because every later event is late for it. ``due`` says so for a row of
state, ``late_from`` for an event.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from millstream.engines.local.flow_expression import UTC_TIME, truncated
from millstream.flows.windows import (
    WINDOW_END,
    WINDOW_START,
    Calendar,
    Hopping,
    Session,
    Sliding,
    TimeWindows,
    Tumbling,
)

TIME = "__ms_time"
"""The event time of a row."""
FLOOR = "__ms_floor"
"""Windows of a row that end at or before this (microseconds) are closed for it; only overlapping windows ask."""
_PANE = "__ms_pane"
_FIRST = "__ms_first"
_NUMBER = "__ms_number"
_KEY = "__ms_key"
_REACHED = "__ms_reached"
_FLOOR_MIN = -(2**62)
_BEFORE_A_GAP = pl.duration(hours=3)

Parts: TypeAlias = dict[str, pl.Expr]
Merge: TypeAlias = Callable[[pl.LazyFrame], pl.LazyFrame]


class WindowKind(ABC):
    """One kind of window. Immutable. Times of state are UTC timestamps; ``…_us`` are microseconds."""

    time = WINDOW_START
    """The column of state that is null for rows whose time is not known."""
    columns: tuple[str, ...] = (WINDOW_START,)
    """The columns of state that say which window, before those of the keys."""
    asks_floor = False

    @abstractmethod
    def grouped(
        self, rows: pl.LazyFrame, keys: Sequence[str], parts: Parts, merge: Merge
    ) -> pl.LazyFrame:
        """Return the state of rows with a column ``TIME``."""

    @abstractmethod
    def merged(self, states: pl.LazyFrame, keys: Sequence[str], parts: Parts) -> pl.LazyFrame:
        """Return the state with each group in one row."""

    @abstractmethod
    def due(self) -> pl.Expr:
        """Return for a row of state the watermark, in microseconds, before which it cannot be complete."""

    @abstractmethod
    def late_from(self, time: pl.Expr) -> pl.Expr:
        """Return for an event's time the watermark, in microseconds, from which on it is too late for all windows."""

    def late_from_us(self, times_us: npt.NDArray[np.int64]) -> npt.NDArray[np.int64] | None:
        """Return the same for many events, where that is simple arithmetic; else None."""
        del times_us
        return None

    @abstractmethod
    def split(
        self, states: pl.DataFrame, merge: Merge, *, after_us: int, until_us: int
    ) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Return the groups that are complete at ``until_us`` and were not at ``after_us``, and what is kept."""

    def first_due_us(self, states: pl.DataFrame, after_us: int) -> int | None:
        """Return the least watermark behind ``after_us`` that completes a group; None if none does."""
        due = self.due()
        first: int | None = states.select(due.filter(due > after_us).min()).item()
        return first

    def kept(self, partial: pl.DataFrame, until_us: int) -> pl.DataFrame:
        """Return what of a micro-batch's state is worth storing once all was closed up to ``until_us``."""
        return partial.filter(self.due() > until_us)

    def of_groups(
        self, states: pl.LazyFrame, touched: pl.LazyFrame, keys: Sequence[str], merge: Merge
    ) -> pl.LazyFrame:
        """Return the groups, each in one row, that ``touched`` has parts of."""
        same = [*self.columns, *keys]
        return merge(states.join(touched, on=same, how="semi", nulls_equal=True))

    def complete(self, states: pl.DataFrame) -> pl.DataFrame:
        """Return what all groups give, when ``states`` is the state of all rows at once."""
        return states

    @abstractmethod
    def bounds(self) -> tuple[pl.Expr, pl.Expr]:
        """Return the start and the end of a complete group's window."""

    @abstractmethod
    def next_start_us(self, until_us: int) -> int:
        """Return where windows begin at the earliest that events still open once all is closed up to ``until_us``."""


class FixedKind(WindowKind):
    """Windows that the event's time alone decides, one for each."""

    def grouped(
        self, rows: pl.LazyFrame, keys: Sequence[str], parts: Parts, merge: Merge
    ) -> pl.LazyFrame:
        """Return the state of rows with a column ``TIME``."""
        del merge
        start = self.start(pl.col(TIME)).alias(WINDOW_START)
        return rows.group_by([start, *keys]).agg(**parts)

    def merged(self, states: pl.LazyFrame, keys: Sequence[str], parts: Parts) -> pl.LazyFrame:
        """Return the state with each group in one row."""
        return states.group_by([WINDOW_START, *keys]).agg(**parts)

    def due(self) -> pl.Expr:
        """Return the window's end."""
        return self.end(pl.col(WINDOW_START)).cast(pl.Int64)

    def late_from(self, time: pl.Expr) -> pl.Expr:
        """Return the end of the (last) window of an event."""
        return self.end(self.start(time)).cast(pl.Int64)

    def split(
        self, states: pl.DataFrame, merge: Merge, *, after_us: int, until_us: int
    ) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Return the groups that are complete, and the others."""
        is_due = self.due() <= until_us
        return merge(states.lazy().filter(is_due)).collect(), states.filter(~is_due)

    def bounds(self) -> tuple[pl.Expr, pl.Expr]:
        """Return the start and the end of a window."""
        return pl.col(WINDOW_START), self.end(pl.col(WINDOW_START))

    def next_start_us(self, until_us: int) -> int:
        """Return where the (last) window that holds a watermark begins."""
        start: int = pl.select(self.start(pl.lit(until_us).cast(UTC_TIME)).cast(pl.Int64)).item()
        return start

    @abstractmethod
    def start(self, time: pl.Expr) -> pl.Expr:
        """Return the start of the (last) window that holds the time."""

    @abstractmethod
    def end(self, start: pl.Expr) -> pl.Expr:
        """Return the end of the window that begins there."""


class _Tumbling(FixedKind):
    def __init__(self, windows: Tumbling) -> None:
        self._size_us = windows.size_us

    def start(self, time: pl.Expr) -> pl.Expr:
        return truncated(time, self._size_us)

    def end(self, start: pl.Expr) -> pl.Expr:
        return start + pl.duration(microseconds=self._size_us)

    def late_from_us(self, times_us: npt.NDArray[np.int64]) -> npt.NDArray[np.int64] | None:
        return (times_us // self._size_us + 1) * self._size_us

    def first_due_us(self, states: pl.DataFrame, after_us: int) -> int | None:
        # Nothing that is complete stays in the state of such windows; and this is asked for each micro-batch.
        del after_us
        start = states[WINDOW_START].cast(pl.Int64).min()
        assert start is None or isinstance(start, int)
        return None if start is None else start + self._size_us


class _Hopping(_Tumbling):
    """A row is counted once in its pane, the greatest stretch that no window cuts; panes are spread over windows."""

    asks_floor = True

    def __init__(self, windows: Hopping) -> None:
        self._size_us = windows.size_us
        self._every_us = windows.every_us
        self._pane_us = math.gcd(windows.size_us, windows.every_us)

    def late_from_us(self, times_us: npt.NDArray[np.int64]) -> npt.NDArray[np.int64] | None:
        del times_us
        return None

    def start(self, time: pl.Expr) -> pl.Expr:
        return truncated(time, self._every_us)

    def next_start_us(self, until_us: int) -> int:
        return (until_us - self._size_us) // self._every_us * self._every_us + self._every_us

    def grouped(
        self, rows: pl.LazyFrame, keys: Sequence[str], parts: Parts, merge: Merge
    ) -> pl.LazyFrame:
        size, every = self._size_us, self._every_us
        pane = pl.col(TIME).cast(pl.Int64) // self._pane_us * self._pane_us
        # The first window that holds the pane, and the first that is still open for the row.
        first = (pane - size) // every * every + every
        allowed = (pl.col(FLOOR).clip(_FLOOR_MIN) - size) // every * every + every
        states = rows.group_by(
            [pane.alias(_PANE), pl.max_horizontal(first, allowed).alias(_FIRST), *keys]
        )
        last = pl.col(_PANE) // every * every
        starts = pl.int_ranges(pl.col(_FIRST), last + 1, every)
        # A time that is not known has no window; as a row without one it can be counted.
        starts = pl.when(pl.col(_PANE).is_not_null()).then(starts)
        spread = states.agg(**parts).with_columns(starts.alias(WINDOW_START)).drop(_PANE, _FIRST)
        return merge(spread.explode(WINDOW_START).with_columns(pl.col(WINDOW_START).cast(UTC_TIME)))


class _Calendar(FixedKind):
    def __init__(self, windows: Calendar) -> None:
        self._zone = windows.zone
        self._unit = {
            "hour": "1h",
            "day": "1d",
            "week": "1w",
            "month": "1mo",
            "quarter": "1q",
            "year": "1y",
        }[windows.unit]

    def start(self, time: pl.Expr) -> pl.Expr:
        local = self._local(time)
        if self._unit == "1h":
            # What the clock shows is wound back to the full hour: so an hour that comes twice is two windows.
            return time - (local - local.dt.truncate("1h"))
        return self._instant(local.dt.truncate(self._unit))

    def end(self, start: pl.Expr) -> pl.Expr:
        if self._unit == "1h":
            return start + pl.duration(hours=1)
        return self._instant(self._local(start).dt.truncate(self._unit).dt.offset_by(self._unit))

    def _local(self, time: pl.Expr) -> pl.Expr:
        return time.dt.convert_time_zone(self._zone).dt.replace_time_zone(None)

    def _instant(self, local: pl.Expr) -> pl.Expr:
        """Return when the clocks show that; a midnight that they leap over is the moment of the leap."""

        def placed(shown: pl.Expr) -> pl.Expr:
            zoned = shown.dt.replace_time_zone(
                self._zone, ambiguous="earliest", non_existent="null"
            )
            return zoned.dt.convert_time_zone("UTC")

        return pl.coalesce(placed(local), placed(local - _BEFORE_A_GAP) + _BEFORE_A_GAP)


class _Session(WindowKind):
    """Stretches of one key's events; two that touch each other are one."""

    columns = (WINDOW_START, WINDOW_END)

    def __init__(self, windows: Session) -> None:
        self._gap = pl.duration(microseconds=windows.gap_us)

    def grouped(
        self, rows: pl.LazyFrame, keys: Sequence[str], parts: Parts, merge: Merge
    ) -> pl.LazyFrame:
        del merge
        ordered = rows.sort([*keys, TIME]).with_columns(self._other_key(keys, TIME))
        begins = pl.col(_KEY) | (pl.col(TIME) - pl.col(TIME).shift(1) >= self._gap)
        numbered = ordered.with_columns(begins.fill_null(value=False).cum_sum().alias(_NUMBER))
        start, end = pl.col(TIME).min(), pl.col(TIME).max() + self._gap
        return self._gathered(numbered, keys, parts, start, end)

    def merged(self, states: pl.LazyFrame, keys: Sequence[str], parts: Parts) -> pl.LazyFrame:
        ordered = states.sort([*keys, WINDOW_START, WINDOW_END])
        ordered = ordered.with_columns(self._other_key(keys, WINDOW_START).cum_sum())
        # How far the stretches before have reached, of the same key.
        reached = pl.col(WINDOW_END).cum_max().shift(1).over(_KEY)
        begins = reached.is_null() | (pl.col(WINDOW_START) >= reached)
        numbered = ordered.with_columns(begins.alias(_REACHED)).with_columns(
            pl.col(_REACHED).cum_sum().alias(_NUMBER)
        )
        start, end = pl.col(WINDOW_START).min(), pl.col(WINDOW_END).max()
        return self._gathered(numbered, keys, parts, start, end)

    def _other_key(self, keys: Sequence[str], time: str) -> pl.Expr:
        """Return as ``_KEY`` whether a row has another key than the row before, or knows its time and that did not."""
        told = pl.struct([*keys, pl.col(time).is_null().alias(_NUMBER)])
        number = told.rle_id()
        return (number != number.shift(1)).fill_null(value=False).alias(_KEY)

    def _gathered(
        self,
        numbered: pl.LazyFrame,
        keys: Sequence[str],
        parts: Parts,
        start: pl.Expr,
        end: pl.Expr,
    ) -> pl.LazyFrame:
        firsts = [pl.col(key).first() for key in keys]
        gathered = numbered.group_by(_NUMBER).agg(
            start.alias(WINDOW_START), end.alias(WINDOW_END), *firsts, **parts
        )
        return gathered.drop(_NUMBER)

    def due(self) -> pl.Expr:
        return pl.col(WINDOW_END).cast(pl.Int64)

    def late_from(self, time: pl.Expr) -> pl.Expr:
        # Not the end of its own stretch: it could touch one that is complete by then, and would have made that longer.
        return time.cast(pl.Int64) + 1

    def split(
        self, states: pl.DataFrame, merge: Merge, *, after_us: int, until_us: int
    ) -> tuple[pl.DataFrame, pl.DataFrame]:
        whole = merge(states.lazy()).collect()
        is_due = self.due() <= until_us
        return whole.filter(is_due & (self.due() > after_us)), whole.filter(~is_due)

    def kept(self, partial: pl.DataFrame, until_us: int) -> pl.DataFrame:
        # A stretch that ended may be the beginning of a longer one, whose rest came in another micro-batch.
        del until_us
        return partial

    def of_groups(
        self, states: pl.LazyFrame, touched: pl.LazyFrame, keys: Sequence[str], merge: Merge
    ) -> pl.LazyFrame:
        # A part may have become the middle of a longer stretch of its key.
        of_keys = touched.select(*keys, pl.col(WINDOW_START).alias(_FIRST))
        if not keys:
            whole = merge(states).with_columns(pl.lit(0).alias(_KEY))
            inside = whole.join(of_keys.with_columns(pl.lit(0).alias(_KEY)), on=_KEY)
        else:
            known = states.join(of_keys, on=keys, how="semi", nulls_equal=True)
            inside = merge(known).join(of_keys, on=keys, nulls_equal=True)
        is_of = pl.col(_FIRST).is_between(pl.col(WINDOW_START), pl.col(WINDOW_END), closed="left")
        found = inside.filter(is_of).drop(_FIRST, _KEY, strict=False)
        return found.unique([WINDOW_START, *keys])

    def bounds(self) -> tuple[pl.Expr, pl.Expr]:
        return pl.col(WINDOW_START), pl.col(WINDOW_END)

    def next_start_us(self, until_us: int) -> int:
        return until_us


class _Sliding(WindowKind):
    """State holds each time for itself; what a time gives is merged from those before it when it is complete."""

    time = WINDOW_END
    columns = (WINDOW_END,)

    def __init__(self, windows: Sliding, keys: Sequence[str], parts: Parts) -> None:
        self._size_us = windows.size_us
        self._keys = list(keys)
        self._parts = parts

    def grouped(
        self, rows: pl.LazyFrame, keys: Sequence[str], parts: Parts, merge: Merge
    ) -> pl.LazyFrame:
        del merge
        return rows.group_by([pl.col(TIME).alias(WINDOW_END), *keys]).agg(**parts)

    def merged(self, states: pl.LazyFrame, keys: Sequence[str], parts: Parts) -> pl.LazyFrame:
        return states.group_by([WINDOW_END, *keys]).agg(**parts)

    def due(self) -> pl.Expr:
        return pl.col(WINDOW_END).cast(pl.Int64) + 1

    def late_from(self, time: pl.Expr) -> pl.Expr:
        return time.cast(pl.Int64) + 1

    def split(
        self, states: pl.DataFrame, merge: Merge, *, after_us: int, until_us: int
    ) -> tuple[pl.DataFrame, pl.DataFrame]:
        whole = merge(states.lazy()).collect()
        complete = self.complete(whole.filter(self.due() <= until_us)).filter(self.due() > after_us)
        return complete, self.kept(whole, until_us)

    def kept(self, partial: pl.DataFrame, until_us: int) -> pl.DataFrame:
        since_us = max(until_us - self._size_us, _FLOOR_MIN)
        return partial.filter(pl.col(WINDOW_END).cast(pl.Int64) > since_us)

    def complete(self, states: pl.DataFrame) -> pl.DataFrame:
        ordered = states.sort(WINDOW_END)
        rolling = ordered.rolling(
            WINDOW_END, period=f"{self._size_us}us", closed="right", group_by=self._keys or None
        )
        return rolling.agg(**self._parts)

    def bounds(self) -> tuple[pl.Expr, pl.Expr]:
        end = pl.col(WINDOW_END)
        return end - pl.duration(microseconds=self._size_us), end

    def next_start_us(self, until_us: int) -> int:
        return until_us - self._size_us


def window_kind(windows: TimeWindows, keys: Sequence[str], merge_parts: Parts) -> WindowKind:
    """Return the kind of a window for an aggregation with these keys."""
    match windows:
        case Tumbling():
            return _Tumbling(windows)
        case Hopping():
            return _Hopping(windows)
        case Calendar():
            return _Calendar(windows)
        case Session():
            return _Session(windows)
        case Sliding():
            return _Sliding(windows, keys, merge_parts)
