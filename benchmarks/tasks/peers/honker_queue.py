"""honker's tasks on SQLite, written in Rust, with results: ``honker worker``, one process for each worker.

Its tasks are ``async def``: plain ones take the way over a thread. It acknowledges after the result is stored, in a
transaction of its own, and claims one at a time. Many are sent in one transaction. It opens SQLite with
``synchronous=NORMAL`` in WAL mode (``process``); for ``disk`` we set ``FULL`` on its writing connection.
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

from benchmarks.peers.contract import DISK, Place, installed
from benchmarks.peers.honker_stream import open_database
from benchmarks.programs import programs
from benchmarks.tasks import work
from benchmarks.tasks.contract import KINDS, URL_VARIABLE, USUAL, Amounts, url

_DURABILITY_VARIABLE = "BENCHMARK_DURABILITY"
_BATCH_TASKS = 1_000
_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Honker:
    """honker's tasks."""

    durability: str
    amounts: Amounts = USUAL

    @property
    def name(self) -> str:
        """How the table calls it."""
        return f"honker sqlite ({self.durability})"

    @contextmanager
    def serving(self, directory: Path) -> Iterator[None]:
        """Nothing to start."""
        installed("honker", group="honker")
        os.environ[URL_VARIABLE] = str(directory)
        os.environ[_DURABILITY_VARIABLE] = self.durability
        yield

    def connect(self) -> _HonkerClient:
        """Return a client."""
        return _HonkerClient(*database())

    def working(self, workers: int, log: Path) -> AbstractContextManager[list[int]]:
        """Run ``honker worker`` once for each: it is one process, whatever its concurrency."""
        command = [sys.executable, "-m", "honker", "worker", f"{__name__}:worker_database"]
        return programs([[*command, "--concurrency", "1"]] * workers, log)


async def no_op(a: int, b: int) -> int:
    """See ``work.no_op``."""
    return work.no_op(a, b)


async def spin(milliseconds: float) -> float:
    """See ``work.spin``."""
    return work.spin(milliseconds)


@functools.cache
def database() -> tuple[Any, dict[str, Any]]:
    """Return the database and its tasks."""
    made = open_database(Place(Path(url()), os.environ.get(_DURABILITY_VARIABLE, DISK)))
    task = made.queue("default").task
    return made, {f.__name__: task(name=f.__name__)(f) for f in (no_op, spin)}


def __getattr__(name: str) -> Any:
    # What the worker program imports by name.
    if name == "worker_database":
        return database()[0]
    raise AttributeError(name)


class _HonkerClient:
    def __init__(self, database: Any, tasks: dict[str, Any]) -> None:
        self._database = database
        self._tasks = tasks
        self._queue = database.queue("default")

    def send(self, kind: str) -> Any:
        name, arguments = KINDS[kind]
        return self._tasks[name](*arguments)

    def send_many(self, kind: str, count: int) -> None:
        name, arguments = KINDS[kind]
        # What a decorated task stores when it is called, inside a transaction of ours.
        envelope = {"__honker_task__": {"task": name, "args": list(arguments), "kwargs": {}}}
        for begin in range(0, count, _BATCH_TASKS):
            with self._database.transaction() as transaction:
                for _ in range(min(_BATCH_TASKS, count - begin)):
                    self._queue.enqueue(envelope, tx=transaction)

    def wait(self, handle: Any) -> None:
        handle.get(timeout=_TIMEOUT_S)

    def is_done(self, count: int) -> bool:
        # An acknowledged job is deleted.
        [live] = self._database.query("SELECT EXISTS (SELECT 1 FROM _honker_live) AS some")
        return not live["some"] and self.results() >= count

    def results(self) -> int:
        [found] = self._database.query("SELECT count(*) AS stored FROM _honker_results")
        stored: int = found["stored"]
        return stored

    def close(self) -> None:
        self._database.close()
