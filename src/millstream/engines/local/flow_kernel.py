"""One aggregate in Polars; and those of users, which are Python for each value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import polars as pl

from millstream.engines.local.flow_expression import dtype
from millstream.flows.aggregate import OwnAggregator
from millstream.flows.state_codec import changed
from millstream.primitives.codec import decode, encode
from millstream.primitives.errors import StepError

Given = TypeVar("Given")


@dataclass(frozen=True)
class Kernel:
    """One aggregate in Polars: expressions by the name of the state column, and the result."""

    partial: dict[str, pl.Expr]
    merge: dict[str, pl.Expr]
    final: pl.Expr
    prepared: dict[str, pl.Expr] = field(default_factory=dict)
    """Columns of state as ``final`` wants them: what it uses several times is computed once."""


def own_kernel(own: OwnAggregator, value: pl.Expr, state: str) -> Kernel:
    """Return the kernel of a user's aggregate: its state is MessagePack in a column of bytes."""

    def added(columns: Sequence[pl.Series]) -> pl.Series:
        total = own.init()
        for item in columns[0].drop_nulls():
            total = own.add(total, item)
        return pl.Series([_kept(total, own)], dtype=pl.Binary)

    def merged(columns: Sequence[pl.Series]) -> pl.Series:
        states = [decode(item) for item in columns[0]]
        # Of nothing there is no state to begin with.
        total = states[0] if states else own.init()
        for item in states[1:]:
            total = own.merge(total, item)
        return pl.Series([_kept(total, own)], dtype=pl.Binary)

    def finished(column: pl.Series) -> pl.Series:
        given = [own.finish(decode(item)) for item in column]
        try:
            return pl.Series(given, dtype=dtype(own.returns))
        except (TypeError, pl.exceptions.PolarsError, OverflowError) as error:
            raise StepError(
                f"finish gives what is no {own.returns}: {_first_line(error)}",
                where=f"aggregator {own.name}",
                expected=f"values of the declared type, returns={own.returns}, or None",
                next_step="convert it in finish, or declare another type; nothing of this batch was written",
            ) from error

    return Kernel(
        {state: _over_group(value, added, own)},
        {state: _over_group(pl.col(state), merged, own)},
        pl.col(state).map_batches(
            lambda column: _guarded(finished, column, own), return_dtype=dtype(own.returns)
        ),
    )


def _kept(state: object, own: OwnAggregator) -> bytes:
    """Return a state as bytes. Raises StepError for one that ``merge`` and ``finish`` would get as something else."""
    data = encode(state)
    change = changed(state, decode(data), lists_for_tuples=True)
    if change is not None:
        raise StepError(
            f"the state does not stay as it is: {change}",
            where=f"aggregator {own.name}",
            expected="numbers, texts, bytes, lists and dicts of them",
            next_step="keep a list in place of a set, a text or a number in place of a date; nothing of this batch was "
            "written",
        )
    return data


def _over_group(
    values: pl.Expr, function: Callable[[Sequence[pl.Series]], pl.Series], own: OwnAggregator
) -> pl.Expr:
    return pl.map_groups(
        [values],
        lambda columns: _guarded(function, columns, own),
        return_dtype=pl.Binary,
        returns_scalar=True,
    )


def _guarded(function: Callable[[Given], pl.Series], given: Given, own: OwnAggregator) -> pl.Series:
    try:
        return function(given)
    except StepError:
        raise
    except Exception as error:
        raise StepError(
            f"the aggregator raised {type(error).__name__}: {_first_line(error)}",
            where=f"aggregator {own.name}",
            expected="init, add, merge and finish that return, and a state that MessagePack can hold",
            next_step="handle the case in the function; nothing of this batch was written",
        ) from error


def _first_line(error: Exception) -> str:
    """Return what Polars passes on of an error besides its type: what comes behind a line break is lost."""
    return next(iter(str(error).splitlines()), "")
