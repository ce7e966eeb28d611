"""Files that flows write: each appears whole or not at all.

A file is written beside its place under a name that begins with a dot and ends in ``.partial``, synced, then renamed,
then its directory is synced. A batch does so in one go. A stream has a commit between the two:

    write      the file of a micro-batch is written and synced, and not visible        flow.file_written
    commit     the place in the source, state, and the names of the file               flow.committed
    publish    the file is renamed, its directory synced                               flow.file_renamed
    forget     the next commit drops the names

Killed before the commit: the file stays as it is, a partial that no reader takes for data, and the micro-batch is
computed again under another name. Killed after it: the names are in the catalog, and whoever takes the flow over
publishes the file. The commit is synced whatever the store's durability: a file cannot be taken back.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import polars as pl

from millstream.engines.local.flow_sources import SCANS
from millstream.flows.source import FileSink
from millstream.primitives.errors import StepError
from millstream.primitives.telemetry import reach

_SUFFIX: Final = {"parquet": ".parquet", "csv": ".csv", "jsonl": ".jsonl", "arrow": ".arrow"}
_WRITE: Final[dict[str, Callable[[pl.LazyFrame, IO[bytes]], object]]] = {
    "parquet": lambda frame, file: frame.sink_parquet(file, engine="streaming"),
    "csv": lambda frame, file: frame.sink_csv(file, engine="streaming"),
    "jsonl": lambda frame, file: frame.sink_ndjson(file, engine="streaming"),
    "arrow": lambda frame, file: frame.sink_ipc(file, engine="streaming"),
}


@dataclass(frozen=True)
class Written:
    """A file that is written and not published yet."""

    partial: Path
    final: Path

    def publish(self) -> None:
        """Give the file its name; nothing to do if that was done already."""
        try:
            if self.partial.exists():
                self.partial.replace(self.final)
            reach("flow.file_renamed")
            _sync_directory(self.final.parent)
        except OSError as error:
            raise _refused(error, self.final) from error


def write_file(sink: FileSink, frame: pl.LazyFrame, identity: str) -> tuple[Written, int]:
    """Write a file beside its place, synced, and return it with its rows; ``identity`` is of this file alone."""
    target = Path(sink.path).absolute()
    final = target / f"{identity}{_SUFFIX[sink.file_format]}" if sink.directory else target
    partial = final.with_name(f".{final.name}.{identity}.partial")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        # Opened here: a thread of Polars may still open a path when the run has failed and the file was removed.
        with partial.open("wb") as file:
            _WRITE[sink.file_format](frame, file)
            file.flush()
            os.fsync(file.fileno())
        rows = SCANS[sink.file_format]([str(partial)]).select(pl.len()).collect().item()
        reach("flow.file_written")
    except OSError as error:
        _remove(partial)
        raise _refused(error, final) from error
    except BaseException:
        _remove(partial)
        raise
    return Written(partial, final), int(rows)


def publish_all(files: Iterable[tuple[str, str]]) -> None:
    """Publish files of which a commit has told: what a process that was killed behind it has left to do."""
    for partial, final in files:
        Written(Path(partial), Path(final)).publish()


def _remove(partial: Path) -> None:
    with contextlib.suppress(OSError):
        partial.unlink(missing_ok=True)


def _refused(error: OSError, path: Path) -> StepError:
    return StepError(
        f"the file cannot be written: {error}",
        where=str(path),
        expected="a directory that can be written to, with room",
        next_step="mend that and run the flow again; nothing of this commit is lost, and nothing comes twice",
    )


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
