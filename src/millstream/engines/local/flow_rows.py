"""Dicts of Python as a source of batches: taken a piece at a time, so that they may be more than memory holds."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Final

import polars as pl
import pyarrow as pa

from millstream.engines.local.flow_events import run_in_loop
from millstream.engines.local.flow_lazy import lazy_frames
from millstream.engines.local.flow_steps import from_arrow, widen
from millstream.flows.kinds import widened_schema
from millstream.flows.source import RowsSource
from millstream.primitives.errors import MillstreamError, SchemaError, StepError
from millstream.primitives.schema import SchemaLike, rows_to_batch, to_arrow_schema

PIECE_ROWS: Final = 10_000
"""How many dicts become one frame."""


def gives_rows(what: object) -> bool:
    """Return whether something gives dicts: an iterable, an async iterable or a function, and no table or text."""
    if isinstance(what, str | bytes | Mapping) or is_table(what):
        return False
    return isinstance(what, Iterable | AsyncIterable) or callable(what)


def is_table(what: object) -> bool:
    """Return whether something has columns of its own."""
    # Asked of the class: a lazy frame would compute its columns.
    named = hasattr(what, "__arrow_c_stream__") or hasattr(type(what), "columns")
    return named or isinstance(what, pa.Table | pa.RecordBatch)


def rows_source(rows: object, schema: SchemaLike) -> RowsSource:
    """Return dicts as a source. A generator can be read once, by one run; a function is called for each."""
    stored = to_arrow_schema(schema)
    return RowsSource(_Once(rows) if _is_one_shot(rows) else rows, stored, widened_schema(stored))


def rows_frame(source: RowsSource, read: Callable[[int], None]) -> pl.LazyFrame:
    """Return the rows; they are taken while the frame is computed. ``read`` is told how many."""

    def frames() -> Iterator[pl.DataFrame]:
        for piece in _pieces(source):
            read(len(piece))
            yield _framed(piece, source)

    return lazy_frames(frames, source.schema)


class _Once:
    """A generator, or another iterator, that was given as it is: the first run takes it."""

    def __init__(self, rows: object) -> None:
        self._rows = rows
        self._is_taken = False
        self.__qualname__ = getattr(rows, "__qualname__", type(rows).__qualname__)

    def __call__(self) -> object:
        if self._is_taken:
            raise StepError(
                "the generator was read already",
                where=f"rows of {self.__qualname__}",
                expected="rows for each run",
                next_step="give read() the function that makes the generator, without calling it",
            )
        self._is_taken = True
        return self._rows


def _is_one_shot(rows: object) -> bool:
    return isinstance(rows, Iterator | AsyncIterator)


def _pieces(source: RowsSource) -> Iterator[list[Any]]:
    """Yield the rows in lists. What the user's code raises becomes a StepError."""
    try:
        given: Any = source.rows() if callable(source.rows) else source.rows
        if isinstance(given, AsyncIterable):
            yield from _pieces_awaited(aiter(given))
            return
        rows = iter(given)
        while piece := list(islice(rows, PIECE_ROWS)):
            yield piece
    except MillstreamError:
        raise
    except Exception as error:
        raise StepError(
            f"reading raised {type(error).__name__}: {error}",
            where=source.text(),
            expected="an iterable of dicts, or a function that returns one",
            next_step="handle the case there; nothing of this run was written",
        ) from error


def _pieces_awaited(rows: AsyncIterator[Any]) -> Iterator[list[Any]]:
    async def take() -> list[Any]:
        piece: list[Any] = []
        async for row in rows:
            piece.append(row)
            if len(piece) == PIECE_ROWS:
                break
        return piece

    while piece := run_in_loop(take()):
        yield piece


def _framed(piece: list[Any], source: RowsSource) -> pl.DataFrame:
    try:
        batch = rows_to_batch(piece, source.stored, where=source.text())
    except SchemaError as error:
        raise StepError(
            error.what, where=error.where, expected=error.expected, next_step=error.next_step
        ) from error
    frame = from_arrow(batch)
    return widen(frame.lazy(), frame.schema).collect()
