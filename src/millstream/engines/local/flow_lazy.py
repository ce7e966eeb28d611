"""Frames that are made while they are computed: what sources and functions of Python give to Polars."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import polars as pl
import pyarrow as pa
from polars.io.plugins import register_io_source

from millstream.engines.local.flow_expression import polars_schema


def lazy_frames(frames: Callable[[], Iterator[pl.DataFrame]], schema: pa.Schema) -> pl.LazyFrame:
    """Return a frame of ``schema`` whose parts are made one after the other, no more than are asked for."""

    def source(
        with_columns: list[str] | None,
        predicate: pl.Expr | None,
        n_rows: int | None,
        batch_size: int | None,
    ) -> Iterator[pl.DataFrame]:
        del batch_size
        for frame in frames():
            # So many rows are read, and of those the predicate keeps some: it stood behind a limit.
            part = frame if n_rows is None else frame.head(n_rows)
            n_rows = None if n_rows is None else n_rows - part.height
            part = part if with_columns is None else part.select(with_columns)
            yield part if predicate is None else part.filter(predicate)
            if n_rows == 0:
                return

    return register_io_source(source, schema=polars_schema(schema))
