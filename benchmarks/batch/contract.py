"""What it takes to be measured: answer the queries over a directory of Parquet files, in a process of one's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, TypeAlias

Rows: TypeAlias = Sequence[Sequence[Any]]
Ask: TypeAlias = Callable[[str], Rows]
"""Answers the query of this name. From the plan on all is done anew; the answer is in memory, its rows in order."""


class QuerySystem(Protocol):
    """A system. It imports its library when it runs: the process that measures it holds no other."""

    @property
    def name(self) -> str:
        """Its name in the table."""

    def running(self, tables: Path, directory: Path) -> AbstractContextManager[Ask]:
        """Start over ``tables``; its own files go to ``directory``. Raises Unavailable."""
