"""Taskiq on Redis, with results: ``taskiq worker`` with a process for each worker.

``RedisStreamBroker``, which acknowledges; by default when the result is stored. Its tasks are ``async def``, its event
loop is uvloop, both as its documentation recommends. Many are sent by a hundred coroutines at once: it has no call for
many. It polls for a result, here every millisecond. Redis: ``memory``, nothing outlives the server.
"""

from __future__ import annotations

import asyncio
import functools
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.contract import installed
from benchmarks.peers.redis_server import redis_server
from benchmarks.programs import programs
from benchmarks.tasks import work
from benchmarks.tasks.contract import KINDS, URL_VARIABLE, USUAL, Amounts, url

_AT_ONCE = 100
_POLL_S = 0.001
_TIMEOUT_S = 60.0
_STREAM = _GROUP = "taskiq"


@dataclass(frozen=True, slots=True)
class Taskiq:
    """Taskiq on a stream of Redis."""

    amounts: Amounts = USUAL

    @property
    def name(self) -> str:
        """How the table calls it."""
        return "taskiq redis (memory)"

    @contextmanager
    def serving(self, directory: Path) -> Iterator[None]:
        """Run Redis."""
        installed("taskiq_redis")
        with redis_server(directory, appendfsync=None) as port:
            os.environ[URL_VARIABLE] = f"redis://127.0.0.1:{port}"
            yield

    def connect(self) -> _TaskiqClient:
        """Return a client."""
        return _TaskiqClient(*broker())

    def working(self, workers: int, log: Path) -> AbstractContextManager[list[int]]:
        """Run ``taskiq worker``."""
        command = [sys.executable, "-m", "taskiq", "worker", f"{__name__}:worker_broker"]
        command += ["--workers", str(workers), "--log-level", "ERROR"]
        return programs([command], log)


async def no_op(a: int, b: int) -> int:
    """See ``work.no_op``."""
    return work.no_op(a, b)


async def spin(milliseconds: float) -> float:
    """See ``work.spin``."""
    return work.spin(milliseconds)


@functools.cache
def broker() -> tuple[Any, dict[str, Any]]:
    """Return the broker and its tasks."""
    library = installed("taskiq_redis")
    backend = library.RedisAsyncResultBackend(f"{url()}/1")
    # From the first message on: it may have been sent before the first worker came.
    made = library.RedisStreamBroker(f"{url()}/0", consumer_id="0").with_result_backend(backend)
    functions = (no_op, spin)
    return made, {f.__name__: made.task(task_name=f.__name__)(f) for f in functions}


def __getattr__(name: str) -> Any:
    # What the worker program imports by name.
    if name == "worker_broker":
        return broker()[0]
    raise AttributeError(name)


class _TaskiqClient:
    def __init__(self, broker: Any, tasks: dict[str, Any]) -> None:
        self._broker = broker
        self._tasks = tasks
        self._runner = asyncio.Runner(loop_factory=installed("uvloop").new_event_loop)
        self._runner.run(broker.startup())
        redis = installed("redis")
        self._queue = redis.Redis.from_url(f"{url()}/0")
        self._results = redis.Redis.from_url(f"{url()}/1")

    def send(self, kind: str) -> Any:
        name, arguments = KINDS[kind]
        return self._runner.run(self._tasks[name].kiq(*arguments))

    def send_many(self, kind: str, count: int) -> None:
        self._runner.run(self._send_many(kind, count))

    async def _send_many(self, kind: str, count: int) -> None:
        name, arguments = KINDS[kind]
        kiq = self._tasks[name].kiq
        for begin in range(0, count, _AT_ONCE):
            await asyncio.gather(*(kiq(*arguments) for _ in range(min(_AT_ONCE, count - begin))))

    def wait(self, handle: Any) -> None:
        self._runner.run(handle.wait_result(check_interval=_POLL_S, timeout=_TIMEOUT_S))

    def is_done(self, count: int) -> bool:
        if self.results() < count:
            return False
        pending: dict[str, int] = self._queue.xpending(_STREAM, _GROUP)
        return pending["pending"] == 0

    def results(self) -> int:
        stored: int = self._results.dbsize()
        return stored

    def close(self) -> None:
        self._runner.run(self._broker.shutdown())
        self._runner.close()
