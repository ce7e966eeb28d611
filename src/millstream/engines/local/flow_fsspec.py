"""Files anywhere that fsspec opens: ``s3://``, ``gs://``, ``abfs://``, ``sftp://``, ``memory://``, ``zip://…::s3://…``.

fsspec is the extra ``millstream[fsspec]``, imported when a flow needs it; each file system has a library of its own.

A file is read by fetching it to this machine first, so that it is parsed by the same code as any other. It is written
on this machine first, and sent when it is complete:

- to a store of objects under its final name: an object appears with its last byte, or not at all;
- to any other file system under a name that begins with a dot, and is renamed then.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple

from millstream.flows.places import name_in, shown
from millstream.primitives.errors import ConfigurationError, MillstreamError, PlanError, StepError
from millstream.primitives.schema import datetime_us
from millstream.primitives.telemetry import reach

OBJECT_STORES: Final = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oss", "r2")
"""Where a file appears whole, under its final name, with the answer to the request that sent it."""

_MODIFIED: Final = (
    "LastModified",
    "last_modified",
    "mtime",
    "modified",
    "updated",
    "date_time",
    "created",
)
_MAGIC: Final = frozenset("*?[")


class Mark(NamedTuple):
    """What tells one state of a file from another. A place that knows no times has 0."""

    size_bytes: int
    modified_us: int


class RemotePlace:
    """A URL, a pattern or a directory on another file system. Belongs to one thread."""

    lists_slowly = True

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        """Open the file system. Raises PlanError, ConfigurationError, StepError: see ``opened_url``."""
        self._url = url
        self._options = options
        first, _, rest = url.partition("::")
        protocol = first.partition("://")[0]
        self._prefix = f"{protocol}://"
        self._chain = f"::{rest}" if rest else ""
        self.is_whole = protocol.lower() in OBJECT_STORES and not rest
        self._is_web = protocol.lower() in ("http", "https")
        self._infos: dict[str, Mapping[str, Any]] = {}
        self._open()

    def _open(self) -> None:
        self._files, self._path = opened_url(self._url, self._options)

    def is_directory(self) -> bool:
        """Return whether it is a directory."""
        self._look_again()
        if self._is_web:
            return False  # fsspec would fetch the file, and look for links in it
        with failing(self._url):
            return not _MAGIC & set(self._path) and bool(self._files.isdir(self._path))

    def listed(self) -> list[str]:
        """Return the files in the directory, sorted."""
        with failing(self._url):
            found = self._files.ls(self._path, detail=True)
        return self._noted({info["name"]: info for info in found})

    def matched(self) -> list[str]:
        """Return the files that match, sorted; a name that is there is meant as it is, whatever characters it has."""
        with failing(self._url):
            # To ask is a request: names with a star in them are too rare for that.
            may_be_name = _MAGIC & set(self._path) and "*" not in self._path
            if may_be_name and self._files.isfile(self._path):
                return self._noted({self._path: self._files.info(self._path)})
            return self._noted(self._files.glob(self._path, detail=True))

    def _look_again(self) -> None:
        """Forget what was listed before: others add files meanwhile. An archive is read anew."""
        with failing(self._url):
            if self._chain:
                self._open()
            self._files.invalidate_cache()

    def _noted(self, found: Mapping[str, Mapping[str, Any]]) -> list[str]:
        self._infos = {
            f"{self._prefix}{name.removeprefix(self._prefix)}{self._chain}": info
            for name, info in found.items()
            if info.get("type") != "directory"
        }
        return sorted(self._infos)

    def mark(self, path: str) -> Mark | None:
        """Return the state of a file at the last look; None if it was not there."""
        info = self._infos.get(path)
        return None if info is None else _mark_of(info)

    def fresh_mark(self, path: str) -> Mark | None:
        """Return the state of a file now; None if it is gone."""
        self._look_again()
        with failing(path):
            try:
                return _mark_of(self._files.info(self._name(path)))
            except FileNotFoundError:
                return None

    @contextmanager
    def opened(self, path: str) -> Iterator[str]:
        """Fetch a file to this machine, for as long as the context lasts."""
        with tempfile.TemporaryDirectory(prefix="millstream-") as folder:
            local = Path(folder) / (name_in(path) or "file")
            with failing(path):
                self._files.get_file(self._name(path), str(local))
            yield str(local)

    def _name(self, path: str) -> str:
        """Return what the file system calls it: on the web the whole URL."""
        whole = path[: len(path) - len(self._chain)]
        return whole if self._is_web else whole[len(self._prefix) :]


def opened_url(url: str, options: Mapping[str, Any]) -> tuple[Any, str]:
    """Return the file system of a URL, and the path in it. Raises PlanError, ConfigurationError, StepError."""
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise ConfigurationError(
            "fsspec is not installed",
            where=shown(url),
            expected="fsspec, which opens files on other file systems",
            next_step="pip install millstream[fsspec]",
        ) from error
    try:
        with failing(url):
            files, path = url_to_fs(url, **options)
            return files, path
    except StepError as error:
        cause = error.__cause__
        if isinstance(cause, ImportError):
            raise ConfigurationError(
                f"the library of this file system is not installed: {cause}",
                where=shown(url),
                expected="the library that fsspec asks for",
                next_step="install it: s3fs for s3://, gcsfs for gs://, adlfs for abfs://",
            ) from cause
        if isinstance(cause, ValueError | TypeError):
            raise PlanError(
                f"the URL cannot be opened: {cause}",
                where=shown(url),
                expected="a protocol that fsspec knows, and storage_options that its file system takes",
                next_step="python -c 'import fsspec; print(fsspec.available_protocols())' lists them",
            ) from cause
        raise


@contextmanager
def failing(url: str) -> Iterator[None]:
    """Turn what a file system raises into StepError."""
    try:
        yield
    except MillstreamError:
        raise
    except Exception as error:  # each library raises errors of its own
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise StepError(
            f"the file system failed: {said}",
            where=shown(url),
            expected="a file system that can be reached, and credentials that may do this",
            next_step="mend that and run the flow again; nothing of a stream is lost, and nothing comes twice",
        ) from error


def upload(partial: Path, url: str, options: Mapping[str, Any], *, replaces: bool) -> None:
    """Send a file that is complete on this machine to its place; it appears there whole or not at all.

    May be repeated: without ``replaces`` a file of that name is this one, sent by somebody who was killed then.
    Raises StepError; the file on this machine stays.
    """
    files, path = opened_url(url, options)
    with failing(url):
        files.invalidate_cache()
        if url.partition("://")[0].lower() in OBJECT_STORES:
            files.put_file(str(partial), path)
        elif replaces or not files.exists(path):
            _put_and_rename(files, partial, path, replaces=replaces)
        files.invalidate_cache()
        sent = files.info(path)["size"]
    if sent != partial.stat().st_size:
        raise StepError(
            f"the file has {sent} bytes there, and {partial.stat().st_size} here",
            where=shown(url),
            expected="all of it",
            next_step="look who else writes there, and run the flow again",
        )
    reach("flow.file_sent")


def _put_and_rename(files: Any, partial: Path, path: str, *, replaces: bool) -> None:  # noqa: ANN401 - of fsspec, which has no types
    target = PurePosixPath(path)
    aside = str(target.with_name(f".{target.name}.partial"))
    files.makedirs(str(target.parent), exist_ok=True)
    files.put_file(str(partial), aside)
    if replaces and files.exists(path):
        files.rm_file(path)
    files.mv(aside, path)


def _mark_of(info: Mapping[str, Any]) -> Mark:
    changed = next((info[key] for key in _MODIFIED if info.get(key) is not None), None)
    # Whole seconds: some stores tell them more exactly in a list than of a single file.
    return Mark(int(info.get("size") or 0), _time_us(changed) // 1_000_000 * 1_000_000)


def _time_us(value: object) -> int:
    """Return a time as each file system says it in microseconds; 0 for what cannot be understood."""
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        if isinstance(value, str):
            value = datetime.fromisoformat(value)
        elif isinstance(value, tuple):  # an archive's, without a zone
            value = datetime(*value[:6])  # noqa: DTZ001 - the zone is added below
        if isinstance(value, datetime):
            return datetime_us(value if value.tzinfo is not None else value.replace(tzinfo=UTC))
        if isinstance(value, int | float):
            return round(value * 1e6)
    return 0
