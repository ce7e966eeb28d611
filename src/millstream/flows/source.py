"""Where a flow reads from and writes to, as facts of a plan. Engines do the reading and writing."""

from __future__ import annotations

from dataclasses import dataclass

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
