"""Where a flow reads from and writes to, as facts of a plan. Engines do the reading and writing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

FILE_FORMATS = ("parquet", "csv", "jsonl", "arrow")


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
    """Files of one format; ``patterns`` are paths that may hold ``*``, ``?`` and ``**``."""

    patterns: tuple[str, ...]
    file_format: str
    stored: pa.Schema
    schema: pa.Schema

    def text(self) -> str:
        """Return the canonical text."""
        return f"{self.file_format} files {', '.join(map(repr, self.patterns))}"


@dataclass(frozen=True, eq=False)
class TableSource:
    """A table in memory."""

    table: pa.Table
    schema: pa.Schema

    def text(self) -> str:
        """Return the canonical text: the size, not the contents."""
        return f"table of {self.table.num_rows} rows"


Source = TopicSource | FileSource | TableSource


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
    """One Parquet file, or a new file in a directory for each run. Appears whole or not at all."""

    path: str
    directory: bool

    def text(self) -> str:
        """Return the canonical text."""
        return f"parquet {'directory' if self.directory else 'file'} {self.path!r}"


Sink = TopicSink | FileSink


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
