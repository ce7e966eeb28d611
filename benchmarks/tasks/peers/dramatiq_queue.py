"""Dramatiq on Redis, with its Results middleware: ``dramatiq`` with a process for each worker.

It acknowledges after the function has returned and the result is stored. Eight threads a process, its default: with
one it is several times slower even for tasks that only compute. It has no call for many tasks. Redis: ``memory``,
nothing outlives the server.
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
from benchmarks.peers.redis_server import redis_server
from benchmarks.programs import programs
from benchmarks.tasks import work
from benchmarks.tasks.contract import KINDS, URL_VARIABLE, USUAL, Amounts, url

_TIMEOUT_MS = 60_000


@dataclass(frozen=True, slots=True)
class Dramatiq:
    """Dramatiq on Redis."""

    amounts: Amounts = USUAL

    @property
    def name(self) -> str:
        """How the table calls it."""
        return "dramatiq redis (memory)"

    @contextmanager
    def serving(self, directory: Path) -> Iterator[None]:
        """Run Redis."""
        installed("dramatiq")
        with redis_server(directory, appendfsync=None) as port:
            os.environ[URL_VARIABLE] = f"redis://127.0.0.1:{port}"
            yield

    def connect(self) -> _DramatiqClient:
        """Return a client."""
        return _DramatiqClient(*broker())

    def working(self, workers: int, log: Path) -> AbstractContextManager[list[int]]:
        """Run ``dramatiq``."""
        command = [sys.executable, "-m", "dramatiq", f"{__name__}:worker_broker"]
        command += ["--processes", str(workers)]
        return programs([command], log)


@functools.cache
def broker() -> tuple[Any, dict[str, Any], Any]:
    """Return the broker, its actors, and where results are kept."""
    dramatiq = installed("dramatiq")
    results = installed("dramatiq.results")
    backend = installed("dramatiq.results.backends").RedisBackend(url=f"{url()}/1")
    made = installed("dramatiq.brokers.redis").RedisBroker(url=f"{url()}/0")
    made.add_middleware(results.Results(backend=backend, store_results=True))
    dramatiq.set_broker(made)
    functions = (work.no_op, work.spin)
    actors = {f.__name__: dramatiq.actor(f, broker=made) for f in functions}
    return made, actors, backend


def __getattr__(name: str) -> Any:
    # What the worker program imports by name.
    if name == "worker_broker":
        return broker()[0]
    raise AttributeError(name)


class _DramatiqClient:
    def __init__(self, broker: Any, actors: dict[str, Any], backend: Any) -> None:
        self._broker = broker
        self._actors = actors
        self._backend = backend

    def send(self, kind: str) -> Any:
        name, arguments = KINDS[kind]
        return self._actors[name].send(*arguments)

    def send_many(self, kind: str, count: int) -> None:
        for _ in range(count):
            self.send(kind)

    def wait(self, handle: Any) -> None:
        handle.get_result(backend=self._backend, block=True, timeout=_TIMEOUT_MS)

    def is_done(self, count: int) -> bool:
        # A message stays in this hash until it is acknowledged.
        return self.results() >= count and not self._broker.client.exists("dramatiq:default.msgs")

    def results(self) -> int:
        stored: int = self._backend.client.dbsize()
        return stored

    def close(self) -> None:
        self._broker.close()
