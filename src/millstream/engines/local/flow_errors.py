"""Errors of the kernels in the words of the library."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import polars as pl

from millstream.primitives.errors import StepError


@contextmanager
def step_errors(where: str) -> Iterator[None]:
    """Turn Polars' errors about data into StepError; a StepError from inside gets the place."""
    try:
        yield
    except StepError as error:
        raise _placed(error, where) from error
    except (pl.exceptions.PolarsError, OverflowError) as error:
        raise StepError(
            f"a value does not fit: {str(error).splitlines()[0]}",
            where=where,
            expected="data that every step of the plan can compute with",
            next_step="filter such rows out before the step, or cast to a wider type",
        ) from error


def _placed(error: StepError, where: str) -> StepError:
    # Polars raises a copy of the error with a report of its own behind the message, and without the fields.
    what = getattr(error, "what", str(error)).split("\n\nThis error occurred", 1)[0]
    return StepError(
        what,
        where=getattr(error, "where", "") or where,
        expected=getattr(error, "expected", ""),
        next_step=getattr(error, "next_step", ""),
    )
