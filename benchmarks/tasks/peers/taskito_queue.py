"""taskito on SQLite, written in Rust, with results: ``taskito worker --pool prefork``, which starts processes.

Its scheduler takes up to 256 tasks at a time and looks every millisecond (by default one, and 50 ms). A waiting caller
polls, here every millisecond. Many are sent by ``map``, in one transaction. It opens SQLite with ``synchronous=NORMAL``
in WAL mode, and offers no setting for more: what it acknowledged survives a kill, not a power loss.
"""

from __future__ import annotations

import functools
import os
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

_WORKERS_VARIABLE = "BENCHMARK_TASKITO_WORKERS"
_CLAIMED_AT_ONCE = 256
_BATCH_TASKS = 1_000
_POLL_S = 0.001
_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Taskito:
    """taskito on SQLite."""

    amounts: Amounts = USUAL

    @property
    def name(self) -> str:
        """How the table calls it."""
        return "taskito sqlite (process)"

    @contextmanager
    def serving(self, directory: Path) -> Iterator[None]:
        """Nothing to start."""
        installed("taskito")
        os.environ[URL_VARIABLE] = str(directory / "taskito.db")
        yield

    def connect(self) -> _TaskitoClient:
        """Return a client."""
        return _TaskitoClient(*queue())

    def working(self, workers: int, log: Path) -> AbstractContextManager[list[int]]:
        """Run ``taskito worker``."""
        command = [sys.executable, "-m", "taskito.cli", "worker"]
        command += ["--app", f"{__name__}:worker_queue", "--pool", "prefork"]
        # It starts its children by the name "python".
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        environment = {"PATH": path, _WORKERS_VARIABLE: str(workers)}
        return programs([command], log, environment=environment)


@functools.cache
def queue() -> tuple[Any, dict[str, Any]]:
    """Return the queue and its tasks."""
    made = installed("taskito").Queue(
        db_path=url(),
        workers=int(os.environ.get(_WORKERS_VARIABLE, "1")),
        scheduler_batch_size=_CLAIMED_AT_ONCE,
        scheduler_poll_interval_ms=int(_POLL_S * 1000),
        push_dispatch=True,
    )
    return made, {f.__name__: made.task(name=f.__name__)(f) for f in (work.no_op, work.spin)}


def __getattr__(name: str) -> Any:
    # What the worker program imports by name.
    if name == "worker_queue":
        return queue()[0]
    raise AttributeError(name)


class _TaskitoClient:
    def __init__(self, queue: Any, tasks: dict[str, Any]) -> None:
        self._queue = queue
        self._tasks = tasks

    def send(self, kind: str) -> Any:
        name, arguments = KINDS[kind]
        return self._tasks[name].delay(*arguments)

    def send_many(self, kind: str, count: int) -> None:
        name, arguments = KINDS[kind]
        for begin in range(0, count, _BATCH_TASKS):
            self._tasks[name].map([arguments] * min(_BATCH_TASKS, count - begin))

    def wait(self, handle: Any) -> None:
        handle.result(timeout=_TIMEOUT_S, poll_interval=_POLL_S, max_poll_interval=_POLL_S)

    def is_done(self, count: int) -> bool:
        return self.results() >= count

    def results(self) -> int:
        completed: int = self._queue.stats()["completed"]
        return completed

    def close(self) -> None:
        self._queue.close()
