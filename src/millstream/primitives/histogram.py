"""Mergeable histograms of microseconds, and the names of the four delays.

Buckets grow by powers of two with 16 linear steps each, so a value is known to 1/16 (6.25 %), as in HdrHistogram
(Gil Tene; one significant hexadecimal digit). Two histograms merge by adding their buckets, so figures of any number
of runs, processes and minutes can be put together without loss. Negative values (the clock of another machine runs
ahead) are counted apart as ``skewed``, and not hidden as zero.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from millstream.primitives.errors import StoreCorrupt

PHASES = ("source_wait", "start_wait", "process", "publish")
"""The four delays: for source data; until processing begins; processing; until others can see the result."""

_STEPS = 16
_STEP_BITS = 4
_BUCKETS = _STEPS * 60
# The total has 128 bits: a third of a million waits of years, as of replayed history, pass 64.
_HEAD = struct.Struct("<BQQQQqH")
_CELL = struct.Struct("<HQ")
_VERSION = 1
_EXACT = 2**53
_FEW = 16
"""So few values are counted sooner one by one."""


class Histogram:
    """Counts of durations in microseconds. Not thread-safe; merge one per thread instead."""

    __slots__ = ("_cells", "count", "max_us", "skewed", "total_us")

    def __init__(self) -> None:
        """Start empty."""
        self._cells: dict[int, int] = {}
        self.count = 0
        self.skewed = 0
        self.total_us = 0
        self.max_us = 0

    def record(self, microseconds: int, count: int = 1) -> None:
        """Add a value ``count`` times."""
        if microseconds < 0:
            self.skewed += count
            return
        cell = _cell_of(microseconds)
        self._cells[cell] = self._cells.get(cell, 0) + count
        self.count += count
        self.total_us += microseconds * count
        self.max_us = max(self.max_us, microseconds)

    def record_many(self, microseconds: npt.NDArray[np.int64]) -> None:
        """Add each value of an array."""
        skewed = int((microseconds < 0).sum())
        self.skewed += skewed
        values = microseconds[microseconds >= 0] if skewed else microseconds
        if values.size <= _FEW:
            for value in values.tolist():
                self.record(value)
            return
        first = int(values[0])
        if first == int(values[-1]) and bool((values == first).all()):
            self.record(first, int(values.size))
            return
        counts = np.bincount(_cells_of(values))
        cells = np.flatnonzero(counts)
        for cell, count in zip(cells.tolist(), counts[cells].tolist(), strict=True):
            self._cells[cell] = self._cells.get(cell, 0) + count
        self.count += int(values.size)
        self.total_us += int(values.sum(dtype=object)) if values.size < 64 else _exact_sum(values)
        self.max_us = max(self.max_us, int(np.max(values)))

    @property
    def is_empty(self) -> bool:
        """Whether nothing was added."""
        return not (self.count or self.skewed)

    def merge(self, other: Histogram) -> None:
        """Add all of ``other``."""
        for cell, count in other._cells.items():
            self._cells[cell] = self._cells.get(cell, 0) + count
        self.count += other.count
        self.skewed += other.skewed
        self.total_us += other.total_us
        self.max_us = max(self.max_us, other.max_us)

    def quantile(self, q: float) -> int:
        """Return the value below which a share of ``q`` lies, to 1/16; 0 when empty."""
        wanted = q * self.count
        seen = 0
        for cell, count in sorted(self._cells.items()):
            seen += count
            if seen >= wanted:
                return min(_upper_us(cell), self.max_us)
        return self.max_us

    @property
    def mean_us(self) -> float:
        """Return the exact mean; 0 when empty."""
        return self.total_us / self.count if self.count else 0.0

    def cells(self) -> Iterator[tuple[int, int]]:
        """Yield (upper bound in microseconds, count), ascending."""
        for cell, count in sorted(self._cells.items()):
            yield _upper_us(cell), count

    def to_bytes(self) -> bytes:
        """Return the stored form: a head, then (cell, count) pairs; little-endian."""
        high, low = divmod(self.total_us, 1 << 64)
        head = _HEAD.pack(
            _VERSION, self.count, self.skewed, high, low, self.max_us, len(self._cells)
        )
        return head + b"".join(_CELL.pack(cell, n) for cell, n in sorted(self._cells.items()))

    @classmethod
    def from_bytes(cls, data: bytes) -> Histogram:
        """Return what ``to_bytes`` stored. Raises StoreCorrupt when the bytes do not fit."""
        result = cls()
        try:
            result._load(data)
        except (struct.error, ValueError):
            raise StoreCorrupt(
                "a stored histogram cannot be read",
                expected=f"version {_VERSION}",
                next_step="run `millstream check` on the store",
            ) from None
        return result

    def _load(self, data: bytes) -> None:
        version, self.count, self.skewed, high, low, self.max_us, cells = _HEAD.unpack_from(data)
        self.total_us = (high << 64) + low
        if version != _VERSION or len(data) != _HEAD.size + cells * _CELL.size:
            raise ValueError(version)
        self._cells = dict(_CELL.iter_unpack(data[_HEAD.size :]))


def _cell_of(value: int) -> int:
    if value < _STEPS:
        return value
    shift = value.bit_length() - 1 - _STEP_BITS
    return min(_BUCKETS - 1, (shift + 1) * _STEPS + ((value >> shift) - _STEPS))


def _cells_of(values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    # A float is an exponent and, behind it, the digits: its first bits are the cell, but for where counting begins.
    if int(np.max(values)) >= _EXACT:
        # So large a number would be rounded, perhaps up into the next cell; its last digits do not matter.
        values = np.where(values < _EXACT, values, values >> 11 << 11)
    digits = values.astype(np.float64).view(np.int64) >> (52 - _STEP_BITS)
    cells = np.minimum(digits - ((1023 + _STEP_BITS - 1) << _STEP_BITS), _BUCKETS - 1)
    return cells if int(np.min(values)) >= _STEPS else np.where(values < _STEPS, values, cells)


def _upper_us(cell: int) -> int:
    if cell < _STEPS:
        return cell
    shift, step = divmod(cell, _STEPS)
    shift -= 1
    return ((step + _STEPS + 1) << shift) - 1


def _exact_sum(values: npt.NDArray[np.int64]) -> int:
    # Split so that 64 bits never overflow: the high and the low halves are added apart.
    high = int((values >> 32).sum())
    low = int((values & 0xFFFFFFFF).sum())
    return (high << 32) + low
