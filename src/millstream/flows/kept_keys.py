"""The key that somebody asks a state for: a value of the key's own type, or what a command line has of it, a text."""

from __future__ import annotations

import base64
import csv
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final

import pyarrow as pa

from millstream.flows.kinds import (
    BINARY,
    BOOLEAN,
    DATE,
    FLOAT,
    INTEGER,
    TEXT,
    literal_kind,
    python_type,
)
from millstream.primitives.errors import PlanError
from millstream.primitives.schema import TIMESTAMP


@dataclass(frozen=True)
class KeyText:
    """A key as a command line names it: the values of its columns with commas between, as in CSV."""

    text: str

    def __repr__(self) -> str:
        """Return what was written."""
        return repr(self.text)


class KeyMisfit(Exception):
    """A key is not of the columns' types. The message says which value, and what was expected."""


def key_values(key: object, columns: pa.Schema) -> tuple[Any, ...]:
    """Return the values that the columns of a key must have. Raises KeyMisfit."""
    if isinstance(key, KeyText):
        texts = [key.text] if len(columns) == 1 else next(csv.reader([key.text]), [])
        _check_count(len(texts), columns)
        return tuple(map(_read, texts, columns))
    given = key if isinstance(key, tuple) else (key,)
    _check_count(len(given), columns)
    for value, column in zip(given, columns, strict=True):
        if value is not None and not _is_of(value, column.type):
            raise KeyMisfit(f"{column.name} is {column.type}, and {value!r} is none")
    return given


def is_same(told: object, asked: object) -> bool:
    """Return whether two values of a key are equal; a NaN is equal to another."""
    if isinstance(told, float) and isinstance(asked, float) and math.isnan(told):
        return math.isnan(asked)
    return told == asked


def _check_count(count: int, columns: pa.Schema) -> None:
    if count != len(columns):
        names = ", ".join(columns.names)
        raise KeyMisfit(f"the key has the columns {names}, and {count} given")


def _is_of(value: object, kind: pa.DataType) -> bool:
    if kind == FLOAT and type(value) is int:
        return True
    if python_type(kind) is None:
        return True  # a type that flows only pass through
    try:
        return bool(literal_kind(value) == kind)
    except PlanError:
        return False


def _read(text: str, column: pa.Field) -> Any:  # noqa: ANN401 - of whatever type the column is
    reader = _READERS.get(column.type)
    if reader is None:
        raise KeyMisfit(f"{column.name} is {column.type}, which no text names: ask flow.state()")
    read, example = reader
    try:
        return read(text)
    except ValueError:
        raise KeyMisfit(
            f"{column.name} is {column.type}, and {text!r} is none; for example {example}"
        ) from None


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


def _timestamp(text: str) -> datetime:
    # Tables show times with UTC behind them.
    at = datetime.fromisoformat(text.replace(" UTC", "+00:00"))
    if at.tzinfo is None:
        raise ValueError(text)
    return at


_READERS: Final[dict[pa.DataType, tuple[Callable[[str], Any], str]]] = {
    INTEGER: (int, "7"),
    FLOAT: (float, "0.5"),
    TEXT: (str, "ann"),
    BOOLEAN: (_boolean, "true"),
    BINARY: (lambda text: base64.b64decode(text, validate=True), "AAE=, as --json shows it"),
    DATE: (date.fromisoformat, "2026-01-31"),
    TIMESTAMP: (_timestamp, "2026-01-31T12:00:00Z"),
}
