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
    name_in,
    plain_path,
    refuse_options,
    refuse_unwritable,
    shown,
    suffix_in,
)
from millstream.flows.sql import SqlSink, SqlSource
from millstream.flows.webhook import WebhookSink
from millstream.primitives.errors import PlanError

FILE_FORMATS = ("parquet", "csv", "jsonl", "arrow")
_TEXTS = ("csv", "jsonl")
FORMAT_OF_SUFFIX = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
}
ON_DELETED = ("fail", "skip")
COMPRESSED = frozenset({".gz", ".zst"})
OTHER_FILES = frozenset(
    ".avro .bz2 .db .gz .json .orc .sqlite .tsv .txt .xls .xlsx .xml .zip .zst".split()
)
"""Suffixes of files that are not taken for the names of topics."""


def format_in(path: str) -> str | None:
    """Return the format that the name of a file or of a pattern says; CSV and JSON lines may be compressed."""
    suffix = suffix_in(path)
    if suffix not in COMPRESSED:
        return FORMAT_OF_SUFFIX.get(suffix)
    inner = FORMAT_OF_SUFFIX.get(PurePath(PurePath(name_in(path)).stem).suffix.lower())
    return inner if inner in _TEXTS else None


@dataclass(frozen=True)
class TopicSource:
    """A topic of the log. ``stored`` is its schema there, ``schema`` what the flow sees."""

    topic: str
    stored: pa.Schema
    schema: pa.Schema
    on_deleted: str = "fail"
    """What a stream does about events that retention has deleted before it read them: one of ``ON_DELETED``."""

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


def named_target(target: object, *, where: str) -> tuple[str, bool]:
    """Return the name of a topic, or the path or URL of files, and whether it is that. Raises PlanError."""
    text = str(target) if isinstance(target, str | PurePath) else getattr(target, "name", None)
    if not isinstance(text, str) or not text:
        raise PlanError(
            f"{target!r} is no place to write to",
            where=where,
            expected="the name of a topic, a topic, a path, or such as ms.sql_table(…) and ms.webhook(…)",
            next_step='write for example .write("orders") or .write("orders.parquet")',
        )
    is_file = _is_path(target, text)
    if isinstance(target, str) and not is_file and PurePath(text).suffix.lower() in OTHER_FILES:
        raise PlanError(
            f"{text!r} looks like a file, of a kind that flows do not write",
            where=where,
            expected=f"a file that ends in one of {', '.join(FORMAT_OF_SUFFIX)}",
            next_step="choose one of them; for a topic of that name give the topic itself, app.topic(…)",
        )
    return text, is_file


def _is_path(target: object, text: str) -> bool:
    """Return whether a target is a file or a directory, and not the name of a topic."""
    return isinstance(target, PurePath) or "/" in text or PurePath(text).suffix in FORMAT_OF_SUFFIX


def topic_sink(
    name: str, key: str | None, partitions: int, schema: pa.Schema, *, where: str
) -> TopicSink:
    """Return the topic of that name as a sink. Raises PlanError for a key that is no column."""
    if key is not None and key not in schema.names:
        raise PlanError(
            f"the key {key!r} is not a column of the output",
            where=where,
            expected=f"one of: {', '.join(schema.names)}",
        )
    return TopicSink(name, key, partitions)


def refuse_key(key: str | None, partitions: int, *, where: str) -> None:
    """Raise PlanError for what only a topic has."""
    if key is not None or partitions != 1:
        raise PlanError(
            "a file has no key and no partitions",
            where=where,
            expected="neither of them",
            next_step="leave them out, or write to a topic",
        )


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
        no_text = pa.types.is_nested(column.type) or pa.types.is_duration(column.type)
        if (no_text and chosen == "csv") or (_holds_bytes(column.type) and chosen in _TEXTS):
            raise PlanError(
                f"{chosen} cannot hold column {column.name!r}: {column.type}",
                where=where,
                expected="numbers, texts, booleans and times",
                next_step="select() it away, or write Parquet or Arrow",
            )
    return FileSink(
        text.rstrip("/"), directory=of_suffix is None, file_format=chosen, options=options or {}
    )


def _holds_bytes(kind: pa.DataType) -> bool:
    inner = [kind.field(number).type for number in range(kind.num_fields)]
    return pa.types.is_binary(kind) or any(map(_holds_bytes, inner))


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
