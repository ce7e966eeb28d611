"""``--reload``: which source files a worker process has imported of its app, and whether they have changed.

The process knows what it imported and tells it; the supervisor looks at the times of those files. They are few and
known by name, so looking at them costs less than to be told of all changes below a directory (which often holds the
store itself), and it is right on every file system.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path

from millstream.engines.local.worker_reports import Sources
from millstream.tasks.limits import RELOAD_FILES_MAX

_INSTALLED = {"site-packages", "dist-packages"}
_LOADING_MAX_NS = 3_600_000_000_000
"""A file whose change lies further ahead of a start has a wrong time, and would restart processes for ever."""


def imported_sources(module_name: str, failure: BaseException | None = None) -> dict[str, int]:
    """Return the source files of the app with their times of change: those imported, and those that ``failure`` names.

    Of the app are the files below the current directory, and those of the package of ``module_name`` wherever it lies;
    not what is installed beside others. At most ``RELOAD_FILES_MAX``.
    """
    roots = [Path.cwd()]
    package = sys.modules.get(module_name.partition(".")[0])
    origin = getattr(package, "__file__", None)
    if origin is not None:
        roots.append(Path(origin).absolute().parent)
    found: dict[str, int] = {}
    for path in _candidates(module_name, failure):
        if len(found) < RELOAD_FILES_MAX and _is_of_app(path, roots):
            found[str(path)] = changed_ns(str(path))
    return found


def new_sources(module_name: str) -> Callable[[], Sources | None]:
    """Return a look that tells the imported files whenever more modules were imported."""
    modules = 0

    def look() -> Sources | None:
        nonlocal modules
        if len(sys.modules) == modules:
            return None
        modules = len(sys.modules)
        return Sources(imported_sources(module_name))

    return look


def _candidates(module_name: str, failure: BaseException | None) -> Iterable[Path]:
    for module in list(sys.modules.values()):
        origin = getattr(module, "__file__", None)
        if isinstance(origin, str) and origin.endswith(".py"):
            yield Path(origin).absolute()
    if failure is None:
        return
    # What failed is not among the modules any more: the error names it, or it does not exist yet.
    if isinstance(failure, SyntaxError) and failure.filename:
        yield Path(failure.filename).absolute()
    for frame, _ in traceback.walk_tb(failure.__traceback__):
        yield Path(frame.f_code.co_filename).absolute()
    stem = Path.cwd().joinpath(*module_name.split("."))
    yield stem.with_suffix(".py")
    yield stem / "__init__.py"


def _is_of_app(path: Path, roots: list[Path]) -> bool:
    if path.suffix != ".py" or _INSTALLED & set(path.parts):
        return False
    return any(path.is_relative_to(root) for root in roots)


def changed_ns(path: str) -> int:
    """Return when a file was last changed, in nanoseconds since the epoch; 0 when it is not there."""
    try:
        return Path(path).stat().st_mtime_ns
    except OSError:
        return 0


class SourceWatch:
    """The files that the supervisor looks at. One thread."""

    def __init__(self) -> None:
        """Start with none."""
        self._known: dict[str, int] = {}
        self._changed: list[str] = []

    def learn(self, files: dict[str, int], *, started_ns: int) -> None:
        """Watch these files, which a process that was started at ``started_ns`` has read.

        One that was changed after the start may have been read before its change: it counts as changed.
        """
        for path, read_ns in files.items():
            now_ns = changed_ns(path)
            if now_ns != read_ns or started_ns < now_ns <= started_ns + _LOADING_MAX_NS:
                self._changed.append(path)
            self._known[path] = now_ns

    def changed(self) -> list[str]:
        """Return the files that have changed since the last look."""
        changed, self._changed = self._changed, []
        for path, known_ns in self._known.items():
            now_ns = changed_ns(path)
            if now_ns != known_ns:
                self._known[path] = now_ns
                changed.append(path)
        return list(dict.fromkeys(changed))
