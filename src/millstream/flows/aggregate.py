"""Aggregates: what is computed of the rows of a group.

Each aggregate has three parts, so that a stream can compute it piece by piece and a batch in one go, with the same
result: *partial* turns rows into a small state, *merge* joins two states, *final* turns the state into the value.

    aggregate            state                         final
    count                n                             n
    sum of integers      sum in 128 bits, n            sum, null if n = 0; error beyond 64 bits
    sum of floats        sum, n                        sum, null if n = 0
    sum of decimals      sum in 38 digits, n           sum, null if n = 0; error beyond 38 digits
    mean                 as sum                        sum / n
    min, max             the value                     the value; NaN is the greatest
    first, last (by)     order, value                  the value
    var, std             n, mean, m2                   m2 / (n - ddof), its root; null if n <= ddof
    n_unique             the distinct values           how many; nulls are not counted
    quantile             the values                    sorted, linear interpolation
    approx_n_unique      a HyperLogLog sketch          how many, about; nulls are not counted
    approx_quantile      counts of logarithmic buckets the value of that rank, about
    collect (by)         the values, with their order  a list in that order, then by value
    top_k                the k greatest values         a list, the greatest first
    a user's own         what ``add`` and ``merge`` make   what ``finish`` makes of it

Nulls are ignored by all but ``count()``. var and std merge as in Chan, Golub and LeVeque, "Updating formulae and a
pairwise algorithm for computing sample variances" (1979). The sketches are those of ``engines/local/flow_sketches.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import pyarrow as pa

from millstream.flows.expression import Expression, col
from millstream.flows.inference import infer
from millstream.flows.kinds import (
    BOOLEAN,
    DURATION,
    FLOAT,
    INTEGER,
    column_kind_named,
    is_decimal,
    is_number,
    is_ordered,
)
from millstream.primitives.errors import PlanError

_SUMMED = (INTEGER, FLOAT, DURATION)
N_UNIQUE_ERRORS: Final = (0.005, 0.25)
QUANTILE_ERRORS: Final = (0.001, 0.25)
"""Which errors a sketch can be asked for: the least bounds its size."""


@dataclass(frozen=True)
class OwnAggregator:
    """An aggregate of a user's own; call it with a column: ``geometric("price")``. See ``aggregator``."""

    name: str
    init: Callable[[], Any]
    add: Callable[[Any, Any], Any]
    merge: Callable[[Any, Any], Any]
    finish: Callable[[Any], Any]
    returns: pa.DataType

    def __call__(self, of: str | Expression) -> Aggregate:
        """Return the aggregate of a column or expression."""
        return Aggregate(self.name, _expression(of), own=self)


@dataclass(frozen=True)
class Aggregate:
    """One aggregate: its function, what it is of, and its constants. Immutable."""

    function: str
    of: Expression | None = None
    by: Expression | None = None
    q: float | None = None
    ddof: int | None = None
    k: int | None = None
    error: float | None = None
    own: OwnAggregator | None = None

    def text(self) -> str:
        """Return the canonical text: equal texts mean equal aggregates."""
        parts = [] if self.of is None else [self.of.text()]
        parts += [] if self.by is None else [f"by={self.by.text()}"]
        parts += [] if self.q is None else [f"q={self.q!r}"]
        parts += [] if self.ddof is None else [f"ddof={self.ddof}"]
        parts += [] if self.k is None else [f"k={self.k}"]
        parts += [] if self.error is None else [f"error={self.error!r}"]
        return f"{self.function}({', '.join(parts)})"

    def substituted(self, *, of: Expression | None, by: Expression | None) -> Aggregate:
        """Return the same aggregate of other expressions."""
        return replace(self, of=of, by=by)


def count(of: str | Expression | None = None) -> Aggregate:
    """Count rows, or the values of ``of`` that are not null. Never null."""
    return Aggregate("count", None if of is None else _expression(of))


def sum(of: str | Expression) -> Aggregate:
    """Add up numbers, decimals or durations; the sum of nothing is null.

    Integers beyond 64 bits, and decimals beyond 38 digits, are an error of the run.
    """
    return Aggregate("sum", _expression(of))


def mean(of: str | Expression) -> Aggregate:
    """Return the arithmetic mean as a float; exact sums for integers; of durations a duration; null of nothing."""
    return Aggregate("mean", _expression(of))


def min(of: str | Expression) -> Aggregate:
    """Return the least value; NaN only if there is nothing else."""
    return Aggregate("min", _expression(of))


def max(of: str | Expression) -> Aggregate:
    """Return the greatest value; NaN is greater than every number."""
    return Aggregate("max", _expression(of))


def first(of: str | Expression, *, by: str | Expression) -> Aggregate:
    """Return the value of the row where ``by`` is least; among equal ones the least value."""
    return Aggregate("first", _expression(of), _expression(by))


def last(of: str | Expression, *, by: str | Expression) -> Aggregate:
    """Return the value of the row where ``by`` is greatest; among equal ones the greatest value."""
    return Aggregate("last", _expression(of), _expression(by))


def var(of: str | Expression, *, ddof: int = 1) -> Aggregate:
    """Return the variance with the divisor n - ddof; null for n <= ddof.

    Raises PlanError for a ``ddof`` that is negative or no integer.
    """
    return Aggregate("var", _expression(of), ddof=_whole(ddof, 0, "ddof"))


def std(of: str | Expression, *, ddof: int = 1) -> Aggregate:
    """Return the root of ``var``. Raises PlanError as ``var`` does."""
    return Aggregate("std", _expression(of), ddof=_whole(ddof, 0, "ddof"))


def n_unique(of: str | Expression) -> Aggregate:
    """Count distinct values exactly, nulls not counted. The state grows with the values."""
    return Aggregate("n_unique", _expression(of))


def quantile(of: str | Expression, q: float) -> Aggregate:
    """Return the exact quantile, interpolated linearly; of durations a duration. The state grows with the rows.

    Raises PlanError for a ``q`` outside 0 to 1.
    """
    return Aggregate("quantile", _expression(of), q=_share(q))


def median(of: str | Expression) -> Aggregate:
    """Return the quantile of 0.5."""
    return quantile(of, 0.5)


def approx_n_unique(of: str | Expression, *, error: float = 0.02) -> Aggregate:
    """Count distinct values with a sketch of bounded size, nulls not counted.

    ``error`` is the relative standard error at most: two of three answers are closer than that, 95 of 100 than twice of
    it. The state is at most 4.4 / error^2 bytes, rounded up to a power of two: 16 KiB for 0.02. The answer depends on
    the values alone, so it is the same in a batch and in a stream, however that is cut. HyperLogLog (Flajolet, Fusy,
    Gandouet and Meunier 2007) with the estimator of Ertl (2017). Raises PlanError for an error outside 0.005 to 0.25.
    """
    return Aggregate("approx_n_unique", _expression(of), error=_error(error, *N_UNIQUE_ERRORS))


def approx_quantile(of: str | Expression, q: float, *, error: float = 0.01) -> Aggregate:
    """Return a quantile with a sketch of bounded size, to within a share of the value itself.

    The answer is at most ``error`` x |v| away from v, the value of rank floor(q x (n - 1)) of n in order; nothing is
    interpolated. Zeros, infinities and NaN are exact, and NaN is the greatest. The state is a count for each bucket of
    values as close as that: about 1.15 / error buckets, of 8 bytes, for each power of ten that the values span, and at
    most 1,500 / error. The answer depends on the values alone, so it is the same in a batch and in a stream, however
    that is cut. DDSketch (Masson, Rim and Lee, VLDB 2019), without its collapsing of buckets. Raises PlanError for a
    ``q`` outside 0 to 1, or an error outside 0.001 to 0.25.
    """
    bounded = _error(error, *QUANTILE_ERRORS)
    return Aggregate("approx_quantile", _expression(of), q=_share(q), error=bounded)


def arg_min(of: str | Expression, *, by: str | Expression) -> Aggregate:
    """Return ``of`` where ``by`` is least; among equal ones the least value. The same as ``first``."""
    return first(of, by=by)


def arg_max(of: str | Expression, *, by: str | Expression) -> Aggregate:
    """Return ``of`` where ``by`` is greatest; among equal ones the greatest value. The same as ``last``."""
    return last(of, by=by)


def collect(of: str | Expression, *, by: str | Expression | None = None) -> Aggregate:
    """Return the values as a list, in the order of ``by`` and then by value; nulls are left out.

    Not in the order of arrival, which a batch and a stream do not share. The state grows with the rows.
    """
    return Aggregate("collect", _expression(of), None if by is None else _expression(by))


def top_k(of: str | Expression, k: int) -> Aggregate:
    """Return the ``k`` greatest values as a list, the greatest first; NaN is greater than every number.

    Raises PlanError unless ``k`` is an integer above zero.
    """
    return Aggregate("top_k", _expression(of), k=_whole(k, 1, "k"))


def aggregator(
    *,
    init: Callable[[], Any],
    add: Callable[[Any, Any], Any],
    merge: Callable[[Any, Any], Any],
    finish: Callable[[Any], Any],
    returns: object,
    name: str | None = None,
) -> OwnAggregator:
    """Return an aggregate of your own, to be called with a column: ``.agg(g=geometric("price"))``.

    ``init()`` makes the state of nothing, ``add(state, value)`` takes a value in (nulls are left out), ``merge(state,
    state)`` joins two, ``finish(state)`` gives the result, of the type ``returns`` (as in a schema), or None. For a
    batch and a stream to agree, it must not matter in which order values are added and states merged. A state is stored
    as MessagePack: numbers, texts, bytes, lists and dicts of them. ``name`` stands for it in the plan, and so in the
    rule whether a stream may go on; left out, it is that of ``add``. Raises PlanError for what cannot be called, and a
    type that a column cannot have.
    """
    chosen: str = name or str(getattr(add, "__qualname__", "aggregator"))
    for part, function in {"init": init, "add": add, "merge": merge, "finish": finish}.items():
        if not callable(function):
            raise PlanError(
                f"{part}={function!r} cannot be called",
                where=f"the aggregator {chosen}",
                expected="init(), add(state, value), merge(state, state) and finish(state)",
                next_step="give a function for each of them",
            )
    kind = column_kind_named(returns, where=f"the aggregator {chosen}")
    return OwnAggregator(chosen, init, add, merge, finish, kind)


def aggregate_kind(aggregate: Aggregate, schema: pa.Schema, *, where: str) -> pa.DataType:
    """Return the type of the aggregate's value over ``schema``. Raises PlanError if it has none."""
    if aggregate.of is None:
        return INTEGER
    kind = infer(aggregate.of, schema, where=where)
    if aggregate.by is not None:
        order = infer(aggregate.by, schema, where=where)
        _fits(aggregate, order, is_ordered(order), "an order: by= of a type that has one", where)
    return aggregate.own.returns if aggregate.own is not None else _result(aggregate, kind, where)


def _result(aggregate: Aggregate, kind: pa.DataType, where: str) -> pa.DataType:
    """Return the type of an aggregate of values of a type. Raises PlanError if it does not fit them."""
    match aggregate.function:
        case "count":
            return INTEGER
        case "n_unique" | "approx_n_unique":
            _fits(aggregate, kind, is_ordered(kind), "a value that can be compared", where)
            return INTEGER
        case "sum":
            _fits(aggregate, kind, _is_summed(kind), "numbers, decimals or durations", where)
            return pa.decimal128(38, kind.scale) if is_decimal(kind) else kind
        case "mean" | "quantile":
            _fits(aggregate, kind, _is_summed(kind), "numbers, decimals or durations", where)
            return DURATION if kind == DURATION else FLOAT
        case "var" | "std" | "approx_quantile":
            _fits(
                aggregate, kind, is_number(kind) or is_decimal(kind), "numbers or decimals", where
            )
            return FLOAT
        case "min" | "max" | "first" | "last" | "collect" | "top_k":
            _fits(aggregate, kind, is_ordered(kind), "values that have an order", where)
    return pa.list_(kind) if aggregate.function in ("collect", "top_k") else kind


def _is_summed(kind: pa.DataType) -> bool:
    return kind in _SUMMED or is_decimal(kind)


def _fits(aggregate: Aggregate, kind: pa.DataType, fits: bool, words: str, where: str) -> None:
    if not fits:
        hint = "cast it to int first" if kind == BOOLEAN else "choose or cast another column"
        raise PlanError(
            f"{aggregate.text()} does not fit {kind}",
            where=where,
            expected=words,
            next_step=hint,
        )


def _expression(of: str | Expression) -> Expression:
    return col(of) if isinstance(of, str) else of


def _share(q: float) -> float:
    if not (_is_number(q) and 0 <= q <= 1):
        raise PlanError(
            f"a quantile of {q!r} does not exist",
            expected="a share between 0 and 1",
            next_step="write 0.95 for the 95th percentile",
        )
    return float(q)


def _error(error: float, least: float, most: float) -> float:
    if not (_is_number(error) and least <= error <= most):
        raise PlanError(
            f"a sketch with an error of {error!r}",
            expected=f"a share between {least} and {most}",
            next_step="write 0.02 for two percent, or take the exact aggregate",
        )
    return float(error)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole(value: object, least: int, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise PlanError(
            f"{name}={value!r}",
            expected=f"an integer that is at least {least}",
            next_step=f"write for example {name}={least or 1}",
        )
    return value
