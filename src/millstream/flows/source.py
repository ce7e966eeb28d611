"""Where a flow reads from and writes to, as facts of a plan. Engines do the reading and writing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Protocol

import pyarrow as pa

from millstream.flows.lakes import LakeSink, LakeSource
from millstream.flows.places import (
    is_remote,
    plain_path,
    refuse_options,
    refuse_unwritable,
    shown,
)
from millstream.flows.sql import SqlSink, SqlSource
from millstream.flows.webhook import WebhookSink
from millstream.primitives.errors import PlanError

FILE_FORMATS = ("parquet", "csv", "jsonl", "arrow")
FORMAT_OF_SUFFIX = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
}


@dataclass(frozen=True)
class TopicSource:
    """A topic of the log. ``stored`` is its schema there, ``schema`` what the flow sees."""

    topic: str
    stored: pa.Schema
    schema: pa.Schema

    def text(self) -> str:
        """Return the canonical text."""
        return f"topic {self.topic!r}"


@dataclass(frozen=True)
class FileSource:
    """Files of one format; ``patterns`` are paths or URLs that may hold ``*``, ``?`` and ``**``."""

    patterns: tuple[str, ...] = field(repr=False)
    file_format: str
    stored: pa.Schema
    schema: pa.Schema
    options: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """What the file system of a URL is told; credentials perhaps."""

    def text(self) -> str:
        """Return the canonical text."""
        return f"{self.file_format} files {', '.join(repr(shown(p)) for p in self.patterns)}"


@dataclass(frozen=True, eq=False)
class TableSource:
    """A table in memory."""

    table: pa.Table
    schema: pa.Schema

    def text(self) -> str:
        """Return the canonical text: the size, not the contents."""
        return f"table of {self.table.num_rows} rows"


@dataclass(frozen=True, eq=False)
class RowsSource:
    """Dicts of Python, read piece by piece: an iterable, an async iterable, or a function that returns one."""

    rows: object
    stored: pa.Schema
    schema: pa.Schema

    def text(self) -> str:
        """Return the canonical text: what gives the rows, not the rows."""
        name = getattr(self.rows, "__qualname__", type(self.rows).__qualname__)
        return f"rows of {name}"


Source = TopicSource | FileSource | TableSource | RowsSource | SqlSource | LakeSource


@dataclass(frozen=True)
class TopicSink:
    """A topic of the log; made on first use with the flow's output schema."""

    topic: str
    key: str | None = None
    partitions: int = 1

    def text(self) -> str:
        """Return the canonical text."""
        return f"topic {self.topic!r}"


@dataclass(frozen=True)
class FileSink:
    """One file, or a directory with a new file for each run or micro-batch. Each appears whole or not at all."""

    path: str = field(repr=False)
    directory: bool
    file_format: str = "parquet"
    options: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """What the file system of a URL is told; credentials perhaps."""

    @property
    def is_remote(self) -> bool:
        """Whether it is a URL for fsspec."""
        return is_remote(self.path)

    def text(self) -> str:
        """Return the canonical text, without a password."""
        return (
            f"{self.file_format} {'directory' if self.directory else 'file'} {shown(self.path)!r}"
        )


def is_path(target: object, text: str) -> bool:
    """Return whether a target is a file or a directory, and not the name of a topic."""
    return isinstance(target, PurePath) or "/" in text or PurePath(text).suffix in FORMAT_OF_SUFFIX


def file_sink(
    text: str,
    file_format: str | None,
    schema: pa.Schema,
    *,
    options: Mapping[str, Any] | None = None,
    where: str,
) -> FileSink:
    """Return the file or directory of that path or URL as a sink.

    Raises PlanError for what its format cannot hold, and for a file system that takes no files.
    """
    text = plain_path(text)
    refuse_unwritable(text, where=where)
    refuse_options(text, options, where=where)
    of_suffix = None if text.endswith("/") else FORMAT_OF_SUFFIX.get(PurePath(text).suffix)
    chosen = file_format or of_suffix or "parquet"
    if chosen not in FILE_FORMATS or (of_suffix is not None and chosen != of_suffix):
        raise PlanError(
            f"{text!r} cannot be written as {chosen!r}",
            where=where,
            expected=f"one of {', '.join(FILE_FORMATS)}, as the name says if it ends in one",
            next_step="leave file_format out, or give the path of a directory",
        )
    for column in schema:
        nested = pa.types.is_nested(column.type) and chosen == "csv"
        if nested or (pa.types.is_binary(column.type) and chosen in ("csv", "jsonl")):
            raise PlanError(
                f"{chosen} cannot hold column {column.name!r}: {column.type}",
                where=where,
                expected="numbers, texts, booleans and times",
                next_step="select() it away, or write Parquet or Arrow",
            )
    return FileSink(
        text.rstrip("/"), directory=of_suffix is None, file_format=chosen, options=options or {}
    )


Sink = TopicSink | FileSink | SqlSink | LakeSink | WebhookSink


class RowCalls(Protocol):
    """What a flow knows of a task: which rows it can be called with."""

    @property
    def name(self) -> str:
        """The name of the task."""

    @property
    def text(self) -> str:
        """The task with its parameters."""

    def takes(self, name: str) -> bool:
        """Return whether there can be an argument of that name."""

    def misfit(self, columns: Mapping[str, type | None]) -> str | None:
        """Return why rows of these columns do not make calls, or None. A type that is not known here is None."""


@dataclass(frozen=True, eq=False)
class CallSink:
    """A task that is called for each row, with the columns ``arguments``; ``task_id`` is the column of the ids."""

    calls: RowCalls
    arguments: tuple[str, ...]
    task_id: str | None = None

    def text(self) -> str:
        """Return the canonical text."""
        known = "" if self.task_id is None else f", task_id={self.task_id!r}"
        return f"task {self.calls.name!r}{known}"
