"""Huey on SQLite, with results: ``huey_consumer`` with its workers as processes.

It takes a task from its queue before the function runs, and has no acknowledgement: a killed worker loses its task.
``no sync``: ``fsync=False``, SQLite's ``synchronous=OFF``, a power loss may damage the file. ``fsync``: ``fsync=True``,
``FULL``. It polls, here every millisecond (``--delay 0.001``), and waits for results every millisecond. It has no call
for many tasks.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.contract import installed
from benchmarks.programs import programs
from benchmarks.tasks import work
from benchmarks.tasks.contract import KINDS, URL_VARIABLE, USUAL, Amounts, url

_POLL_S = 0.001
_TIMEOUT_S = 60.0
_FSYNC_VARIABLE = "BENCHMARK_HUEY_FSYNC"


@dataclass(frozen=True, slots=True)
class Huey:
    """Huey on SQLite."""

    fsync: bool
    amounts: Amounts = USUAL

    @property
    def name(self) -> str:
        """How the table calls it."""
        return f"huey sqlite early ({'fsync' if self.fsync else 'no sync'})"

    @contextmanager
    def serving(self, directory: Path) -> Iterator[None]:
        """Nothing to start."""
        installed("huey")
        os.environ[URL_VARIABLE] = str(directory / "huey.db")
        os.environ[_FSYNC_VARIABLE] = "1" if self.fsync else ""
        yield

    def connect(self) -> _HueyClient:
        """Return a client."""
        return _HueyClient(*queue())

    def working(self, workers: int, log: Path) -> AbstractContextManager[list[int]]:
        """Run ``huey_consumer``."""
        command = [sys.executable, "-m", "huey.bin.huey_consumer", f"{__name__}.worker_queue"]
        command += ["--workers", str(workers), "--worker-type", "process", "--no-periodic"]
        delay = str(_POLL_S)
        command += ["--delay", delay, "--max-delay", delay, "--quiet"]
        return programs([command], log, stop=signal.SIGINT)


@functools.cache
def queue() -> tuple[Any, dict[str, Any]]:
    """Return the queue and its tasks."""
    fsync = bool(os.environ[_FSYNC_VARIABLE])
    made = installed("huey").SqliteHuey("bench", filename=url(), fsync=fsync)
    return made, {f.__name__: made.task()(f) for f in (work.no_op, work.spin)}


def __getattr__(name: str) -> Any:
    # What the worker program imports by name.
    if name == "worker_queue":
        return queue()[0]
    raise AttributeError(name)


class _HueyClient:
    def __init__(self, huey: Any, tasks: dict[str, Any]) -> None:
        self._huey = huey
        self._tasks = tasks
        self._read = 0

    def send(self, kind: str) -> Any:
        name, arguments = KINDS[kind]
        return self._tasks[name](*arguments)

    def send_many(self, kind: str, count: int) -> None:
        for _ in range(count):
            self.send(kind)

    def wait(self, handle: Any) -> None:
        handle.get(blocking=True, timeout=_TIMEOUT_S, backoff=1.0, max_delay=_POLL_S)
        self._read += 1  # Reading a result removes it.

    def is_done(self, count: int) -> bool:
        return self.results() >= count

    def results(self) -> int:
        stored: int = self._huey.result_count()
        return self._read + stored

    def close(self) -> None:
        self._huey.storage.close()
