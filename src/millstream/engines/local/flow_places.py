"""Where files of flows lie: on this machine, or anywhere that fsspec opens (``flow_fsspec``)."""

from __future__ import annotations

import glob
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from millstream.engines.local.flow_fsspec import Mark, RemotePlace
from millstream.flows.places import is_remote, name_in
from millstream.primitives.errors import StepError


class FilePlace(Protocol):
    """A path, a pattern or a directory. Raises StepError when it cannot be looked at."""

    is_whole: bool
    """Whether a file that is there is whole: nobody can be writing it."""
    lists_slowly: bool
    """Whether looking for files is a request to somebody."""

    def is_directory(self) -> bool:
        """Return whether it is a directory."""

    def listed(self) -> list[str]:
        """Return the files in the directory, sorted."""

    def matched(self) -> list[str]:
        """Return the files that match, sorted."""

    def mark(self, path: str) -> Mark | None:
        """Return the state of a file that was found; None if it is gone, or a directory."""

    def fresh_mark(self, path: str) -> Mark | None:
        """Return its state now, not that of the last look."""

    @contextmanager
    def opened(self, path: str) -> Iterator[str]:
        """Give the path of a file on this machine with the same content, as long as the context lasts."""


class LocalPlace:
    """A path on this machine."""

    is_whole = False
    lists_slowly = False

    def __init__(self, pattern: str) -> None:
        """Nothing is looked at."""
        self._pattern = pattern

    def is_directory(self) -> bool:
        """Return whether it is a directory."""
        with _looking(self._pattern):
            return Path(self._pattern).is_dir()

    def listed(self) -> list[str]:
        """Return the files in the directory, sorted; not those in the directories in it."""
        try:
            with _looking(self._pattern):
                inside = sorted(Path(self._pattern).iterdir())
                return [str(path) for path in inside if not path.is_dir()]
        except FileNotFoundError:
            return []  # it was removed meanwhile

    def matched(self) -> list[str]:
        """Return the files that match, sorted; a name that is there is meant as it is, whatever characters it has."""
        if Path(self._pattern).exists():
            return [self._pattern]
        found = glob.glob(self._pattern, recursive=True)  # noqa: PTH207 - absolute patterns too
        return sorted(path for path in found if not Path(path).is_dir())

    def mark(self, path: str) -> Mark | None:
        """Return the size and the time of the last change; None if it is gone, or a directory."""
        try:
            with _looking(path):
                status = Path(path).stat()
        except FileNotFoundError:
            return None
        if stat.S_ISDIR(status.st_mode):
            return None
        return Mark(status.st_size, status.st_mtime_ns // 1000)

    fresh_mark = mark

    @contextmanager
    def opened(self, path: str) -> Iterator[str]:
        """Give the path itself."""
        yield path


@contextmanager
def _looking(path: str) -> Iterator[None]:
    """Turn what the operating system refuses into StepError; that a file is gone passes."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a path that there cannot be
        raise StepError(
            f"it cannot be looked at: {error}",
            where=path,
            expected="a path that this process may read",
            next_step="check the path and its permissions",
        ) from error


def place_at(pattern: str, options: Mapping[str, Any]) -> FilePlace:
    """Return the place of a path, a pattern or a directory. Raises PlanError, ConfigurationError."""
    return RemotePlace(pattern, options) if is_remote(pattern) else LocalPlace(pattern)


def visible(paths: Sequence[str], pattern: str) -> list[str]:
    """Return the files that are not on their way, by their names; one that is named outright is meant."""
    return [path for path in paths if name_in(path) == name_in(pattern) or not _is_hidden(path)]


def _is_hidden(path: str) -> bool:
    name = name_in(path)
    return name.startswith((".", "_")) or name.endswith((".partial", ".tmp"))
