"""The numbers that arrays hold of each group, for the aggregates whose state is a few numbers.

The columns are those of ``flow_aggregate``: rows and counts, the sum of integers as two halves, ``high * 2^32 + low``,
the sum of floats, the least and the greatest value.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from millstream.engines.local.flow_aggregate import ROWS, of_name, part_name
from millstream.engines.local.flow_dense_keys import Codes
from millstream.flows.aggregate import Aggregate
from millstream.flows.inference import infer
from millstream.flows.kinds import FLOAT, INTEGER
from millstream.flows.plan import Aggregation
from millstream.primitives.schema import TIMESTAMP

Values: TypeAlias = npt.NDArray[Any]
Arrays: TypeAlias = dict[str, Values]

_HALF: Final = 32
_LOW: Final = 2**_HALF - 1
_INTEGER_MAX: Final = 2**63 - 1


@dataclass(frozen=True)
class Counted:
    """The rows of a micro-batch by their places: numbers below ``length``, of which ``used`` have rows."""

    inputs: pl.DataFrame
    places: Codes
    length: int
    used: Codes
    rows: Values
    """How many rows each of the used places has."""

    def values(self, name: str) -> tuple[Values, Codes]:
        """Return the values of a column that are not null, and their places."""
        column = self.inputs[name]
        if column.dtype.is_temporal():
            column = column.cast(pl.Int64)
        if not column.null_count():
            return column.to_numpy(), self.places
        known = column.is_not_null().to_numpy()
        return column.fill_null(0).to_numpy()[known], self.places[known]

    def count(self, name: str) -> Values:
        """Return how many values each of the used places has."""
        column = self.inputs[name]
        if not column.null_count():
            return self.rows
        # Of any type: only whether there is a value matters.
        known = column.is_not_null().to_numpy()
        return np.bincount(self.places[known], minlength=self.length)[self.used]

    def total(self, values: Values, places: Codes) -> Values:
        """Return the sum of the values in each of the used places."""
        sums = np.zeros(self.length, dtype=values.dtype)
        np.add.at(sums, places, values)
        return sums[self.used]


class Part(ABC):
    """Arrays of one aggregate. Immutable; a window has the arrays."""

    empty: Mapping[str, int | float]
    """For each array what stands where nothing was added."""

    @abstractmethod
    def counted(self, counted: Counted) -> Arrays:
        """Return what a micro-batch adds at the used places."""

    def open(self, arrays: Arrays, size: int) -> None:
        """Put the arrays of a new window."""
        for name, empty in self.empty.items():
            arrays[name] = np.full(size, empty)

    def grow(self, arrays: Arrays, size: int, shift: int) -> None:
        """Make the arrays longer; all places but that of the null key move by ``shift``."""
        for name, empty in self.empty.items():
            before, after = arrays[name], np.full(size, empty)
            after[0] = before[0]
            after[1 + shift : before.size + shift] = before[1:]
            arrays[name] = after

    def add(self, arrays: Arrays, codes: Codes, more: Arrays) -> None:
        """Add to places of a window, each of which is named once."""
        for name in self.empty:
            arrays[name][codes] += more[name]

    def columns(self, arrays: Arrays) -> dict[str, pl.Series]:
        """Return the columns of state."""
        return {name: pl.Series(arrays[name]) for name in self.empty}

    def arrays(self, states: pl.DataFrame) -> Arrays:
        """Return the arrays of columns of state."""
        return {name: states[name].to_numpy() for name in self.empty}


class Rows(Part):
    """How many rows a group has."""

    def __init__(self) -> None:
        """Of all groups."""
        self.empty = {ROWS: 0}

    def counted(self, counted: Counted) -> Arrays:
        """Return the rows."""
        return {ROWS: counted.rows}


class Count(Part):
    """How many rows, or values that are not null."""

    def __init__(self, index: int, of: str | None) -> None:
        """Of the aggregate of that number."""
        self._of = of
        self._n = part_name(index, "n")
        self.empty = {self._n: 0}

    def counted(self, counted: Counted) -> Arrays:
        """Return the counts."""
        return {self._n: counted.rows if self._of is None else counted.count(self._of)}


class Sum(Part):
    """The exact sum of integers, and how many there are."""

    def __init__(self, index: int, of: str) -> None:
        """Of the aggregate of that number."""
        self._of = of
        self._high, self._low, self._n = (part_name(index, name) for name in ("high", "low", "n"))
        self.empty = {self._high: 0, self._low: 0, self._n: 0}

    def counted(self, counted: Counted) -> Arrays:
        """Return the sums as halves."""
        values, places = counted.values(self._of)
        largest = max(abs(int(values.max(initial=0))), abs(int(values.min(initial=0))))
        if largest * values.size <= _INTEGER_MAX:
            totals = counted.total(values, places)
            high, low = totals >> _HALF, totals & _LOW
        else:
            high = counted.total(values >> _HALF, places)
            low = counted.total(values & _LOW, places)
        return {self._high: high, self._low: low, self._n: counted.count(self._of)}


class FloatSum(Part):
    """The sum of floats, and how many there are."""

    def __init__(self, index: int, of: str) -> None:
        """Of the aggregate of that number."""
        self._of = of
        self._sum, self._n = part_name(index, "sum"), part_name(index, "n")
        self.empty = {self._sum: 0.0, self._n: 0}

    def counted(self, counted: Counted) -> Arrays:
        """Return the sums."""
        values, places = counted.values(self._of)
        return {self._sum: counted.total(values, places), self._n: counted.count(self._of)}


class Extreme(Part):
    """The least or the greatest value; null where there is none.

    Of floats NaN is the greatest, and the least only if there is nothing else.
    """

    def __init__(self, index: int, of: str, *, is_float: bool, least: bool) -> None:
        """Of the aggregate of that number."""
        self._of = of
        self._v = part_name(index, "v")
        self._known = self._v + "_known"
        if is_float:
            self._choose: np.ufunc = np.fmin if least else np.maximum
            nothing: int | float = np.nan if least else -np.inf
        else:
            self._choose = np.minimum if least else np.maximum
            nothing = _INTEGER_MAX if least else -_INTEGER_MAX - 1
        self._nothing = nothing
        self.empty = {self._v: nothing, self._known: 0}

    def counted(self, counted: Counted) -> Arrays:
        """Return the extremes."""
        values, places = counted.values(self._of)
        most = np.full(counted.length, self._nothing)
        self._choose.at(most, places, values)
        return {self._v: most[counted.used], self._known: counted.count(self._of)}

    def add(self, arrays: Arrays, codes: Codes, more: Arrays) -> None:
        """Choose between what is there and what comes."""
        arrays[self._v][codes] = self._choose(arrays[self._v][codes], more[self._v])
        arrays[self._known][codes] += more[self._known]

    def columns(self, arrays: Arrays) -> dict[str, pl.Series]:
        """Return the column of state."""
        return {self._v: pl.Series(arrays[self._v]).set(pl.Series(arrays[self._known] == 0), None)}

    def arrays(self, states: pl.DataFrame) -> Arrays:
        """Return the arrays of a column of state."""
        column = states[self._v].to_physical()
        known = column.is_not_null().to_numpy().astype(np.int64)
        return {self._v: column.fill_null(self._nothing).to_numpy(), self._known: known}


def parts_of(step: Aggregation, schema: pa.Schema) -> list[Part] | None:
    """Return the parts of an aggregation, the rows of a group first; None if an aggregate has another state."""
    parts: list[Part] = [Rows()]
    for index, (_, aggregate) in enumerate(step.aggregates):
        part = _part_of(index, aggregate, schema)
        if part is None:
            return None
        parts.append(part)
    return parts


def _part_of(index: int, aggregate: Aggregate, schema: pa.Schema) -> Part | None:
    if aggregate.own is not None or aggregate.by is not None:
        return None
    of = of_name(index)
    if aggregate.of is None:
        return Count(index, None) if aggregate.function == "count" else None
    kind = infer(aggregate.of, schema, where=aggregate.text())
    match aggregate.function:
        case "count":
            return Count(index, of)
        case "sum" | "mean" if kind == INTEGER:
            return Sum(index, of)
        case "sum" | "mean" if kind == FLOAT:
            return FloatSum(index, of)
        case "min" | "max" if kind in (INTEGER, FLOAT, TIMESTAMP):
            least = aggregate.function == "min"
            return Extreme(index, of, is_float=kind == FLOAT, least=least)
    return None
