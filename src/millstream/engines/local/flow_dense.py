"""Open tumbling windows as arrays: a place for each window and key, added to by numpy.

What Polars does for any window, any keys and any aggregate, this does for the most common ones at a fraction of the
time: one key of text or integers (or none), and aggregates whose state is a few numbers.

    window 12:00:00   rows   [ 3  0  7  1 … ]     a key's place is its code: of an integer its distance from the least,
                      total  [ 9  .  2  4 … ]     of a text the order in which it was first seen; 0 is the null key
    window 12:00:10   rows   [ 1  2  0  0 … ]

A micro-batch is counted by (window, code) with ``bincount``, and only what it has touched is stored: rows of state as
``GroupKernel`` makes them, so either reads what the other has stored. Where arrays would be too large, because there
are too many windows or keys, the state goes over to the general kernel: ``TooLarge``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa

from millstream.engines.local.flow_aggregate import ROWS, GroupKernel
from millstream.engines.local.flow_dense_keys import Codes, Keys, TooLarge, keys_of
from millstream.engines.local.flow_dense_parts import Arrays, Counted, Part, parts_of
from millstream.engines.local.flow_state import (
    PARTIALS_MAX,
    Blob,
    Changelog,
    StateChange,
    decoded,
    encoded,
)
from millstream.engines.local.flow_windows import TIME
from millstream.flows.plan import Aggregation
from millstream.flows.windows import WINDOW_START, Tumbling

PLACES_MAX: Final = 2_000_000
"""So many places of open windows at most: with four numbers in each, 64 MB."""

_WINDOW_PLACES: Final = 1_000
"""What a window costs at least, as each is looked at by itself."""

_EMPTY_PLACES: Final = 65_536

GROUPS_MIN: Final = 100_000
"""Below so many stored groups a snapshot is not worth its while: to load them takes some 40 ms."""

_SNAPSHOT_TIMES: Final = 4
"""A snapshot is taken when so many times more groups are stored than there are."""


def dense_windows(
    step: Aggregation, kernel: GroupKernel, schema: pa.Schema, *, closed_until_us: int
) -> DenseWindows | None:
    """Return the state of an aggregation as arrays, or None if it is none that arrays can hold."""
    window = step.window
    if window is None or not isinstance(window.windows, Tumbling) or len(step.keys) > 1:
        return None
    parts, keys = parts_of(step, schema), keys_of(step, schema)
    if parts is None or keys is None:
        return None
    size_us = window.windows.size_us
    return DenseWindows(kernel, size_us, keys, parts, closed_until_us=closed_until_us)


class DenseWindows:
    """The windows that are open. Belongs to one stream in one thread."""

    def __init__(
        self,
        kernel: GroupKernel,
        size_us: int,
        keys: Keys,
        parts: Sequence[Part],
        *,
        closed_until_us: int,
    ) -> None:
        """Start with no window open, all of them closed up to that watermark."""
        self._kernel = kernel
        self._size_us = size_us
        self._keys = keys
        self._key = next(iter(kernel.keys), None)
        self._parts = parts
        self._schema = kernel.state_schema()
        self._closed_until_us = closed_until_us
        self._windows: dict[int, Arrays] = {}
        self.changelog = Changelog()
        self.touched: pl.DataFrame | None = None
        """The state that the last micro-batch has added."""

    def load(self, blobs: Iterable[Blob], *, where: str) -> None:
        """Take over what earlier commits stored, without what was closed already. Raises TooLarge."""
        stored = list(blobs)
        self.changelog.loaded(stored)
        frames = [decoded(data, checksum, where) for _, checksum, data in stored]
        if frames:
            merged = self._kernel.merge(pl.concat(frames).lazy()).collect()
            starts = merged[WINDOW_START].cast(pl.Int64).to_numpy()
            merged = merged.filter(starts + self._size_us > self._closed_until_us)
            with np.errstate(invalid="ignore", over="ignore"):
                self._take(merged)

    def _take(self, states: pl.DataFrame) -> None:
        if not states.height:
            return
        codes = self._codes(states)
        windows = states[WINDOW_START].cast(pl.Int64).to_numpy() // self._size_us
        for window in np.unique(windows).tolist():
            chosen = windows == window
            arrays = self._arrays(window)
            of_window = states.filter(chosen)
            for part in self._parts:
                part.add(arrays, codes[chosen], part.arrays(of_window))

    @property
    def groups(self) -> int:
        """How many groups are held."""
        return sum(int(np.count_nonzero(arrays[ROWS])) for arrays in self._windows.values())

    @property
    def first_due_us(self) -> int | None:
        """The least watermark that closes something, or None if nothing is open."""
        return None if not self._windows else (min(self._windows) + 1) * self._size_us

    @property
    def last_due_us(self) -> int | None:
        """The watermark that closes all windows that are open, or None if none is."""
        return None if not self._windows else (max(self._windows) + 1) * self._size_us

    @property
    def first_start_us(self) -> int | None:
        """Where the first window that is open begins, or None if none is."""
        return None if not self._windows else min(self._windows) * self._size_us

    def advance(
        self, rows: pl.DataFrame | None, until_us: int
    ) -> tuple[pl.DataFrame | None, StateChange]:
        """Add rows, close windows that end at or before ``until_us``.

        Returns the states of the closed windows (None if there are none) and the change to store. Raises TooLarge
        before anything has changed.
        """
        # As in Polars: infinities and NaN are values like others.
        with np.errstate(invalid="ignore", over="ignore"):
            touched = None if rows is None or not rows.height else self._add(rows)
        self.touched = touched
        closed = self._close(until_us)
        self._closed_until_us = max(self._closed_until_us, until_us)
        if not self._windows:
            return closed, self.changelog.replace()
        if self._is_due(0 if touched is None else touched.height):
            return closed, self.changelog.replace(_stored(self.states()))
        if touched is not None and closed is not None:
            starts = touched[WINDOW_START].cast(pl.Int64)
            touched = touched.filter(starts + self._size_us > until_us)
        return closed, self.changelog.append(() if touched is None else _stored(touched))

    def states(self) -> pl.DataFrame:
        """Return the state of all open windows."""
        return self._states_of(sorted(self._windows))

    def current(self, touched: pl.DataFrame | None) -> pl.DataFrame:
        """Return the state of open groups, each in one row: those that ``touched`` has parts of, or all."""
        if touched is None:
            return self.states()
        frames = [pl.DataFrame(schema=self._schema)]
        codes = self._codes(touched)
        windows = touched[WINDOW_START].cast(pl.Int64).to_numpy() // self._size_us
        for window in sorted(set(windows.tolist()) & self._windows.keys()):
            frames.append(self._state_of(window, np.unique(codes[windows == window])))
        return pl.concat(frames)

    def _is_due(self, touched: int) -> bool:
        if self.changelog.blobs >= PARTIALS_MAX:
            return True
        stored = self.changelog.rows + touched
        return stored > GROUPS_MIN and stored > _SNAPSHOT_TIMES * self.groups

    def _add(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Add rows to their windows, and return the state of these rows alone."""
        inputs = self._kernel.inputs_of(rows)
        windows = inputs[TIME].cast(pl.Int64).to_numpy() // self._size_us
        codes = self._codes(inputs)
        first, size = int(windows.min()), self._keys.size
        span = int(windows.max()) - first + 1
        self._refuse_too_many(windows, span)
        counted, used = _counted(inputs, (windows - first) * size + codes, span * size)
        more: Arrays = {}
        for part in self._parts:
            more |= part.counted(counted)
        window_of, code_of = np.divmod(used, size)
        begins = np.flatnonzero(np.diff(window_of, prepend=-1)).tolist()
        for begin, end in pairwise([*begins, used.size]):
            arrays = self._arrays(first + int(window_of[begin]))
            of_window = {name: values[begin:end] for name, values in more.items()}
            for part in self._parts:
                part.add(arrays, code_of[begin:end], of_window)
        return self._framed((window_of + first) * self._size_us, code_of, more)

    def _refuse_too_many(self, windows: Codes, span: int) -> None:
        of_one = max(self._keys.size, _WINDOW_PLACES)
        if (len(self._windows) + span) * of_one <= PLACES_MAX:
            return
        # Many of these windows may be open already, or have no row.
        opened = self._windows.keys() | set(np.unique(windows).tolist())
        if len(opened) * of_one > PLACES_MAX:
            raise TooLarge

    def _codes(self, inputs: pl.DataFrame) -> Codes:
        """Return the codes of the keys; arrays grow, or shift, to hold them."""
        if self._key is None:
            return np.zeros(inputs.height, dtype=np.int64)
        before = self._keys.size
        codes, shift = self._keys.codes(inputs[self._key])
        if shift or self._keys.size > before:
            for arrays in self._windows.values():
                for part in self._parts:
                    part.grow(arrays, self._keys.size, shift)
        return codes

    def _arrays(self, window: int) -> Arrays:
        arrays = self._windows.get(window)
        if arrays is None:
            self._windows[window] = arrays = {}
            for part in self._parts:
                part.open(arrays, self._keys.size)
        return arrays

    def _close(self, until_us: int) -> pl.DataFrame | None:
        due = sorted(w for w in self._windows if (w + 1) * self._size_us <= until_us)
        if not due:
            return None
        closed = self._states_of(due)
        for window in due:
            del self._windows[window]
        return closed if closed.height else None

    def _states_of(self, windows: list[int]) -> pl.DataFrame:
        frames = [pl.DataFrame(schema=self._schema)]
        for window in windows:
            frames.append(self._state_of(window, np.flatnonzero(self._windows[window][ROWS])))
        return pl.concat(frames)

    def _state_of(self, window: int, codes: Codes) -> pl.DataFrame:
        starts = np.full(codes.size, window * self._size_us)
        arrays = {name: of[codes] for name, of in self._windows[window].items()}
        return self._framed(starts, codes, arrays)

    def _framed(self, starts: Codes, codes: Codes, arrays: Arrays) -> pl.DataFrame:
        columns: dict[str, pl.Series] = {WINDOW_START: pl.Series(starts)}
        if self._key is not None:
            columns[self._key] = self._keys.values(codes)
        for part in self._parts:
            columns |= part.columns(arrays)
        # Column by column: a cast of the frame would be a query.
        return pl.DataFrame(
            [columns[name].cast(kind).alias(name) for name, kind in self._schema.items()]
        )


def _counted(inputs: pl.DataFrame, places: Codes, length: int) -> tuple[Counted, Codes]:
    """Return the rows by their places, and which have some; numbered anew if there are far more places than rows."""
    if length <= 4 * places.size + _EMPTY_PLACES:
        rows = np.bincount(places, minlength=length)
        used = np.flatnonzero(rows)
        return Counted(inputs, places, length, used, rows[used]), used
    used, numbers, rows = np.unique(places, return_inverse=True, return_counts=True)
    return Counted(inputs, numbers, used.size, np.arange(used.size), rows), used


def _stored(states: pl.DataFrame) -> tuple[Blob, ...]:
    """Return what is stored of states: integers as narrow as they can be, which is quicker than to compress them."""
    columns = [column.shrink_dtype() if column.dtype == pl.Int64 else column for column in states]
    return encoded(pl.DataFrame(columns), compression="uncompressed")
