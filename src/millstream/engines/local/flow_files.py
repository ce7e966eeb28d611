"""Files that flows write: each appears whole or not at all.

A file is written beside its place under a name that begins with a dot and ends in ``.partial``, synced, then renamed,
then its directory is synced. A batch does so in one go. A stream has a commit between the two:

    write      the file of a micro-batch is written and synced, and not visible        flow.file_written
    commit     the place in the source, state, and the names of the file               flow.committed
    publish    the file is renamed, its directory synced                               flow.file_renamed
    forget     the next commit drops the names

For another file system (``flow_fsspec``) a file is written into the store's directory, ``outgoing/<flow>/``. Publishing
sends it to its place (flow.file_sent); then it is removed here. What a kill before the commit leaves there, the next
stream removes.

Killed before the commit: the file stays as it is, a partial that no reader takes for data, and the micro-batch is
computed again under another name. Killed after it: the names are in the catalog, and whoever takes the flow over
publishes the file. The commit is synced whatever the store's durability: a file cannot be taken back.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

import polars as pl

from millstream.engines.local.flow_fsspec import opened_url, upload
from millstream.engines.local.flow_scans import rows_in
from millstream.flows.places import is_remote, shown
from millstream.flows.plan import Plan
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
    final: str
    """A path, or a URL."""
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def publish(self, *, replaces: bool = False) -> None:
        """Give the file its name; nothing to do if that was done already. Raises StepError."""
        try:
            if is_remote(self.final):
                if self.partial.exists():
                    upload(self.partial, self.final, self.options, replaces=replaces)
                    self.partial.unlink()
                return
            final = Path(self.final)
            if self.partial.exists():
                self.partial.replace(final)
            reach("flow.file_renamed")
            _sync_directory(final.parent)
        except OSError as error:
            raise _refused(error, self.final) from error

    def discard(self) -> None:
        """Remove what was not published and will not be."""
        _remove(self.partial)


def write_file(
    sink: FileSink, frame: pl.LazyFrame, identity: str, *, outgoing: Path
) -> tuple[Written, int]:
    """Write a file beside its place, synced, and return it with its rows; ``identity`` is of this file alone.

    What goes to another file system is written into the folder ``outgoing``.
    """
    name = f"{identity}{_SUFFIX[sink.file_format]}"
    if sink.is_remote:
        final = f"{sink.path.rstrip('/')}/{name}" if sink.directory else sink.path
        partial = outgoing / f"{name}.partial"
    else:
        target = Path(sink.path).absolute()
        path = target / name if sink.directory else target
        final, partial = str(path), path.with_name(f".{path.name}.{identity}.partial")
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        # Opened here: a thread of Polars may still open a path when the run has failed and the file was removed.
        with partial.open("wb") as file:
            _WRITE[sink.file_format](frame, file)
            file.flush()
            os.fsync(file.fileno())
        if sink.is_remote:
            # The commit names this file, and nothing else has it.
            for folder in (partial.parent, *partial.parents[1:3]):
                _sync_directory(folder)
        rows = rows_in(sink.file_format, partial)
        reach("flow.file_written")
    except OSError as error:
        _remove(partial)
        raise _refused(error, final) from error
    except BaseException:
        _remove(partial)
        raise
    return Written(partial, final, sink.options), rows


def publish_all(files: Iterable[tuple[str, str]], options: Mapping[str, Any]) -> None:
    """Publish files of which a commit has told: what a process that was killed behind it has left to do."""
    for partial, final in files:
        Written(Path(partial), final, options).publish()


def check_place(plan: Plan) -> None:
    """Raise PlanError, or ConfigurationError, unless the file system that a plan writes to can be opened."""
    if isinstance(plan.sink, FileSink) and plan.sink.is_remote:
        opened_url(plan.sink.path, plan.sink.options)


def options_of(plan: Plan) -> Mapping[str, Any]:
    """Return what the file system that a plan writes to is told."""
    return plan.sink.options if isinstance(plan.sink, FileSink) else {}


def outgoing_folder(store: Path, flow_id: int) -> Path:
    """Return the folder of the files of a flow that are on their way to another file system."""
    return store / "outgoing" / f"{flow_id}"


def drop_outgoing(folder: Path, kept: Collection[str] = ()) -> None:
    """Remove what streams that were killed before their commit have left there. Only by the owner of the flow."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if str(path) not in kept:
            path.unlink(missing_ok=True)
    if not kept:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def outgoing_of_batch(sink: FileSink) -> Iterator[Path]:
    """Give a folder for what a batch sends to another file system; it goes with the context."""
    if not sink.is_remote:
        yield Path()
        return
    with tempfile.TemporaryDirectory(prefix="millstream-") as folder:
        yield Path(folder)


def _remove(partial: Path) -> None:
    with contextlib.suppress(OSError):
        partial.unlink(missing_ok=True)


def _refused(error: OSError, path: Path | str) -> StepError:
    return StepError(
        f"the file cannot be written: {error}",
        where=shown(str(path)),
        expected="a directory that can be written to, with room",
        next_step="mend that and run the flow again; nothing of this commit is lost, and nothing comes twice",
    )


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
