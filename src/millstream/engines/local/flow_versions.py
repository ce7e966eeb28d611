"""Joins with a table that changes: each row gets the version that held at its time.

    versions of a key       |v1───────────|v2──────────        the right flow: rows with the time from which they hold
    rows                 a        b            c      d        a gets nothing, b gets v1, c and d get v2

A row is given once the watermark has passed it: then every version up to its time has come. Of each key the versions
behind the watermark are kept, and the last one before it, which holds there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import polars as pl

from millstream.engines.local.flow_catalog import Claim
from millstream.engines.local.flow_expression import polars_schema
from millstream.engines.local.flow_joining import LEFT, RIGHT
from millstream.engines.local.flow_ordered_rows import OrderedRows, in_order
from millstream.engines.local.flow_stages import Advanced, Clockless, fate
from millstream.engines.local.flow_state import (
    GROUPS_MIN,
    PARTIALS_MAX,
    Blob,
    Changelog,
    StateChange,
    decoded,
    encoded,
)
from millstream.engines.local.flow_steps import steps_behind
from millstream.engines.local.flow_tally import Tally
from millstream.flows.merging import AsOf, JoinSource
from millstream.flows.plan import Plan
from millstream.flows.watermark import TIME_MIN

_RIGHT: Final = "__ms_right_"
_EARLIEST_US: Final = -(2**62)


class AsofKernel:
    """One join as of a time. Immutable."""

    def __init__(self, join: JoinSource) -> None:
        """Compile."""
        assert join.time is not None
        assert isinstance(join.time.match, AsOf)
        self.times = (join.time.left, join.time.right)
        self.schemas = (polars_schema(join.left.schema), polars_schema(join.right.schema))
        self.keys = list(join.right_on)
        self.tolerance_us = join.time.match.tolerance_us
        self._left_keys = list(join.left_on)
        self._names = join.schema.names

    def joined(self, left: pl.LazyFrame, right: pl.LazyFrame) -> pl.LazyFrame:
        """Return the left rows, in the order of time, each with the last right row of its key that is not after it.

        The times of all rows are known. Of right rows of one time the last counts.
        """
        time = _RIGHT + self.times[RIGHT]
        versions = right.filter(self._has_keys(self.keys)).sort(
            self.times[RIGHT], maintain_order=True
        )
        renamed = {name: _RIGHT + name for name in [*self.keys, self.times[RIGHT]]}
        tolerance = None if self.tolerance_us is None else f"{self.tolerance_us}us"
        joined = left.sort(self.times[LEFT], maintain_order=True).join_asof(
            versions.rename(renamed),
            left_on=self.times[LEFT],
            right_on=time,
            by_left=self._left_keys or None,
            by_right=[_RIGHT + key for key in self.keys] or None,
            tolerance=tolerance,
            check_sortedness=False,  # it cannot be checked within keys; both sides are sorted
        )
        return joined.select(self._names)

    def all_rows(self, left: pl.LazyFrame, right: pl.LazyFrame) -> pl.LazyFrame:
        """Return what the join of all rows gives: the join as a batch."""
        sides = [
            rows.filter(pl.col(time).is_not_null())
            for rows, time in zip((left, right), self.times, strict=True)
        ]
        return self.joined(*sides)

    def held(self, versions: pl.DataFrame, until_us: int) -> pl.DataFrame:
        """Return the versions that rows at or behind a watermark may ask for, in the order in which they came."""
        at = pl.col(self.times[RIGHT]).cast(pl.Int64)
        if self.tolerance_us is not None:
            versions = versions.filter(at >= max(until_us - self.tolerance_us, _EARLIEST_US))
        before = in_order(versions.filter(at < until_us), self.times[RIGHT])
        last = (
            before.unique(self.keys, keep="last", maintain_order=True)
            if self.keys
            else before.tail(1)
        )
        return pl.concat([last, versions.filter(at >= until_us)])

    def _has_keys(self, keys: Sequence[str]) -> pl.Expr:
        return pl.all_horizontal([pl.lit(True), *(pl.col(key).is_not_null() for key in keys)])


class Versions:
    """The versions that may be asked for. Belongs to one stream in one thread.

    In the catalog each micro-batch appends its own; when twice as many are stored as are needed, a snapshot replaces
    them. What is needed follows from their times, keys and the watermark, so loading leaves out the rest.
    """

    def __init__(self, kernel: AsofKernel, *, closed_until_us: int) -> None:
        """Start with none."""
        self._kernel = kernel
        self._closed_until_us = closed_until_us
        self._frame = pl.DataFrame(schema=kernel.schemas[RIGHT])
        self._needed = 0
        self._changelog = Changelog()

    def load(self, blobs: Iterable[Blob], *, where: str) -> None:
        """Take over what earlier commits stored."""
        stored = list(blobs)
        self._changelog.loaded(stored)
        frames = [decoded(data, checksum, where) for _, checksum, data in stored]
        self._frame = pl.concat([self._frame, *frames])
        self._forget()

    def rows(self) -> pl.LazyFrame:
        """Return what is kept."""
        return self._frame.lazy()

    def add(self, new: pl.DataFrame) -> None:
        """Take new versions."""
        self._frame = pl.concat([self._frame, new])

    def close(self, new: pl.DataFrame, until_us: int) -> StateChange:
        """Forget what no row behind a watermark can ask for; return the change to store."""
        self._closed_until_us = max(self._closed_until_us, until_us)
        # To look for what can go takes as long as there are rows; so it is done when they have doubled.
        if self._frame.height > max(GROUPS_MIN, 2 * self._needed):
            self._forget()
        stored = self._changelog
        limit = max(GROUPS_MIN, 2 * self._frame.height)
        if stored.blobs >= PARTIALS_MAX or stored.rows + new.height > limit:
            self._forget()
            return stored.replace(encoded(self._frame))
        return stored.append(encoded(new) if new.height else ())

    def held(self) -> pl.DataFrame:
        """Return what rows behind the watermark may ask for."""
        return self._kernel.held(self._frame, self._closed_until_us)

    def _forget(self) -> None:
        self._frame = self.held().rechunk()
        self._needed = self._frame.height


class VersionStage(Clockless):
    """A join as of a time and the steps behind it, up to the next step that keeps state or the end."""

    states = range(2)

    def __init__(self, plan: Plan, end: int, *, claim: Claim, where: Path, tally: Tally) -> None:
        """Compile, and load the state that the last commit left."""
        join = plan.source
        assert isinstance(join, JoinSource)
        self._kernel = AsofKernel(join)
        self.after = steps_behind(plan, -1, end, tally)
        self._empty = pl.DataFrame(schema=polars_schema(self.after.schema))
        self._no_versions = pl.DataFrame(schema=self._kernel.schemas[RIGHT])
        self.closed_until_us = claim.closed_until_us.get(0, TIME_MIN)
        place = f"{where}, flow {claim.name!r}"
        self._waiting = OrderedRows(
            self._kernel.times[LEFT],
            self._kernel.schemas[LEFT],
            closed_until_us=self.closed_until_us,
        )
        self._waiting.load(claim.state.get(LEFT, ()), where=place)
        self._versions = Versions(self._kernel, closed_until_us=self.closed_until_us)
        self._versions.load(claim.state.get(RIGHT, ()), where=place)

    def fate(self, side: int, mark: pl.Expr | None) -> pl.Expr:
        """Return what becomes of a row: it is late once rows of its time may have been given."""
        time = pl.col(self._kernel.times[side])
        return fate(time, time.cast(pl.Int64) + 1, self.closed_until_us, mark)

    def advance(self, sides: Sequence[pl.DataFrame | None], until_us: int) -> Advanced:
        """Take rows and versions, and give the rows before a watermark with what held at their time."""
        left, right = sides
        new = self._no_versions if right is None else right.select(self._no_versions.columns)
        self._versions.add(new)
        due, waiting = self._waiting.advance(left, until_us)
        output = self._empty
        if due.height:
            output = self.after.computed(self._kernel.joined(due.lazy(), self._versions.rows()))
        change = self._versions.close(new, until_us)
        self.closed_until_us = max(self.closed_until_us, until_us)
        return output, (waiting, change)

    def watermark_behind_us(self, time: str) -> int:
        """Return the time that rows which this stage will give cannot be before."""
        del time
        return self.closed_until_us

    @property
    def first_due_us(self) -> int | None:
        """The least watermark that lets a row out, or None if none waits."""
        return self._waiting.first_due_us

    @property
    def last_due_us(self) -> int | None:
        """The watermark behind which none waits, or None if none does."""
        return self._waiting.last_due_us
