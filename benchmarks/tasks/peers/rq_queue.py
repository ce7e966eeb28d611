"""RQ on Redis, with results, and JSON as its serializer.

``fork``: ``rq worker`` as everybody gets it, which forks a process for each job, so that a job cannot harm its worker.
``simple``: ``SimpleWorker``, which runs jobs in its own process. The module of the tasks is imported before the worker
starts, as its page on performance recommends. A job is taken off its queue before it runs; that of a killed worker ends
as failed. Many are sent by ``enqueue_many``. A waiting caller blocks on the stream of results. Redis: ``memory``,
nothing outlives the server.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import Unavailable
from benchmarks.peers.contract import installed
from benchmarks.peers.redis_server import redis_server
from benchmarks.programs import programs
from benchmarks.tasks import work
from benchmarks.tasks.contract import KINDS, URL_VARIABLE, USUAL, Amounts, url

_QUEUE = "default"
_FINISHED = f"rq:finished:{_QUEUE}"
_TIMEOUT_S = 60
_BATCH_TASKS = 1_000
_FUNCTIONS = {f.__name__: f for f in (work.no_op, work.spin)}


@dataclass(frozen=True, slots=True)
class RQ:
    """RQ on Redis."""

    forks: bool
    amounts: Amounts = USUAL

    @property
    def name(self) -> str:
        """How the table calls it."""
        return f"rq redis {'fork' if self.forks else 'simple'} (memory)"

    @contextmanager
    def serving(self, directory: Path) -> Iterator[None]:
        """Run Redis."""
        installed("rq")
        with redis_server(directory, appendfsync=None) as port:
            os.environ[URL_VARIABLE] = f"redis://127.0.0.1:{port}"
            yield

    def connect(self) -> _RQClient:
        """Return a client."""
        return _RQClient()

    def working(self, workers: int, log: Path) -> AbstractContextManager[list[int]]:
        """Run a program with an RQ worker for each."""
        kind = "Worker" if self.forks else "SimpleWorker"
        return programs([[sys.executable, "-m", __name__, kind]] * workers, log)


def _open_queue() -> Any:
    connection = installed("redis").Redis.from_url(url())
    return installed("rq").Queue(_QUEUE, connection=connection, serializer="json")


class _RQClient:
    def __init__(self) -> None:
        self._queue = _open_queue()

    def send(self, kind: str) -> Any:
        name, arguments = KINDS[kind]
        return self._queue.enqueue(_FUNCTIONS[name], *arguments)

    def send_many(self, kind: str, count: int) -> None:
        name, arguments = KINDS[kind]
        queue = self._queue
        for begin in range(0, count, _BATCH_TASKS):
            size = min(_BATCH_TASKS, count - begin)
            queue.enqueue_many(
                [queue.prepare_data(_FUNCTIONS[name], arguments) for _ in range(size)]
            )

    def wait(self, handle: Any) -> None:
        result = handle.latest_result(timeout=_TIMEOUT_S)
        if result is None:
            raise Unavailable(f"no result within {_TIMEOUT_S} s")

    def is_done(self, count: int) -> bool:
        return self.results() >= count

    def results(self) -> int:
        stored: int = self._queue.connection.zcard(_FINISHED)
        return stored

    def close(self) -> None:
        self._queue.connection.close()


def _work(kind: str) -> None:
    rq = installed("rq")
    queue = _open_queue()
    worker = getattr(rq, kind)([queue], connection=queue.connection, serializer="json")
    worker.work(logging_level="ERROR")


if __name__ == "__main__":
    _work(sys.argv[1])
