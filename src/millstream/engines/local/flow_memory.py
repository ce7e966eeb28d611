"""A limit of the memory that a batch computes in: what does not fit goes to disk, beside the store.

Polars' streaming engine keeps what it sorts, groups and joins by in memory, and spills it into files once that is more
than a budget. The budget belongs to the process, so of several limited runs at a time the least one counts for all. The
folder is chosen by the first of them and stays that of the process: Polars never looks for another one.

A process that is killed leaves its folder; the next limited run in that store removes it.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import polars as pl
import pyarrow as pa

from millstream.engines.local.flow_steps import to_arrow
from millstream.store import Store

SPILL_FOLDER: Final = "spill"
_MIB: Final = 2**20
_TABLE_ROWS: Final = 250_000
"""How many rows are staged for a topic at a time."""


class _Process:
    """The limits of this process's runs, and where it spills."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._limits: list[int] = []
        self._folder: Path | None = None
        self._owner = 0

    def enter(self, limit: int, store: Store) -> Path:
        with self._lock:
            if self._folder is None or self._owner != os.getpid():
                self._folder, self._owner = store.path / SPILL_FOLDER / store.process, os.getpid()
            # Polars' own folder, too: a store, and with it the folder, may have been removed since the last run.
            (self._folder / str(os.getpid())).mkdir(parents=True, exist_ok=True)
            self._limits.append(limit)
            self._apply()
            return self._folder

    @property
    def folder(self) -> Path | None:
        """Return where this process spills, or None if it never has."""
        return self._folder if self._owner == os.getpid() else None

    def leave(self, limit: int) -> None:
        with self._lock:
            self._limits.remove(limit)
            self._apply()

    def _apply(self) -> None:
        environment: dict[str, str | None] = {"POLARS_OOC_MEMORY_BUDGET_MB": None}
        if self._limits:
            budget = max(1, min(self._limits) // _MIB)
            environment = {
                "POLARS_OOC_MEMORY_BUDGET_MB": str(budget),
                "POLARS_OOC_SPILL_DIR": str(self._folder),
            }
        pl.Config.load(json.dumps({"environment": environment}))


_PROCESS: Final = _Process()


class SpilledRows:
    """The output of a batch in a file of its own: its tables come one after the other, as often as is asked."""

    def __init__(self, path: Path, schema: pa.Schema, rows: int) -> None:
        """``rows`` is how many there are."""
        self.rows = rows
        self._path = path
        self._schema = schema

    @classmethod
    def of(cls, frame: pl.LazyFrame, schema: pa.Schema, path: Path) -> SpilledRows:
        """Compute a frame into a file."""
        with path.open("wb") as file:
            frame.sink_ipc(file, compression="lz4", maintain_order=True)
        rows: int = pl.scan_ipc(path).select(pl.len()).collect().item()
        return cls(path, schema, rows)

    def frame(self) -> pl.LazyFrame:
        """Return the rows; they are read when it is computed, as often as it is."""
        return pl.scan_ipc(self._path)

    def __iter__(self) -> Iterator[pa.Table]:
        """Yield the tables."""
        for part in self.frame().collect_batches(
            engine="streaming", maintain_order=True, chunk_size=_TABLE_ROWS
        ):
            yield to_arrow(part, self._schema)


@contextmanager
def memory_limit(limit: int | None, store: Store) -> Iterator[Path | None]:
    """Have Polars spill what is more than so many bytes; yield the folder for it, or None without a limit."""
    if limit is None:
        yield None
        return
    _sweep(store, _PROCESS.folder)
    folder = _PROCESS.enter(limit, store)
    try:
        yield folder
    finally:
        _PROCESS.leave(limit)


def _sweep(store: Store, own: Path | None) -> None:
    """Remove what processes that are dead have left."""
    spilled = store.path / SPILL_FOLDER
    for folder in spilled.iterdir() if spilled.exists() else ():
        if folder != own and not store.is_alive(folder.name):
            shutil.rmtree(folder, ignore_errors=True)
