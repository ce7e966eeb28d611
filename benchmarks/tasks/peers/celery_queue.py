"""Celery, on Redis and on RabbitMQ, with results: ``celery worker`` with its pool of forked processes.

``default``: nothing is set but where broker and results are. ``tuned``: prefetch of 128 a process, as its page
"Optimizing" advises for short tasks, and without gossip, mingle and heartbeat. ``early`` acknowledges before the
function runs (its default), ``late`` after it. Results are JSON, on Redis as keys, on RabbitMQ as messages to the
sender (``rpc://``). It has no call for many tasks: they are sent one by one on one producer.

Redis: ``memory`` has no file at all, ``fsync`` is ``appendfsync always``. RabbitMQ: Celery's queues are durable and its
messages persistent; without ``confirms`` the sender does not wait until the broker has them. Results are not
persistent there unless asked for, and they are not.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.contract import installed
from benchmarks.peers.rabbitmq_server import rabbitmq_server
from benchmarks.peers.redis_server import redis_server
from benchmarks.programs import programs
from benchmarks.tasks import work
from benchmarks.tasks.contract import KINDS, URL_VARIABLE, USUAL, Amounts, url

REDIS, RABBITMQ = "redis", "rabbitmq"
_SETTINGS_VARIABLE = "BENCHMARK_CELERY"
_PREFETCH = 128
_TIMEOUT_S = 60.0
_TUNED_OPTIONS = ["--without-gossip", "--without-mingle", "--without-heartbeat"]


@dataclass(frozen=True, slots=True)
class Celery:
    """Celery on one of its brokers."""

    broker: str
    tuned: bool = False
    late: bool = False
    safe: bool = False
    """Redis: sync each write. RabbitMQ: wait for its confirmation of each message."""
    amounts: Amounts = USUAL

    @property
    def name(self) -> str:
        """How the table calls it."""
        kept = ("fsync" if self.safe else "memory") if self.broker == REDIS else "persistent"
        if self.broker == RABBITMQ and self.safe:
            kept += ", confirms"
        tuned, late = "tuned" if self.tuned else "default", "late" if self.late else "early"
        return f"celery {self.broker} {tuned} {late} ({kept})"

    @contextmanager
    def serving(self, directory: Path) -> Iterator[None]:
        """Run its broker, which keeps its results, too."""
        installed("celery")
        settings: dict[str, Any] = {"task_acks_late": self.late}
        if self.tuned:
            settings["worker_prefetch_multiplier"] = _PREFETCH
        if self.broker == REDIS:
            with redis_server(directory, appendfsync="always" if self.safe else None) as port:
                _publish(f"redis://127.0.0.1:{port}/0", f"redis://127.0.0.1:{port}/1", settings)
                yield
            return
        if self.safe:
            settings["broker_transport_options"] = {"confirm_publish": True}
        with rabbitmq_server(directory) as port:
            _publish(f"amqp://guest:guest@127.0.0.1:{port}//", "rpc://", settings)
            yield

    def connect(self) -> _CeleryClient:
        """Return a client."""
        return _CeleryClient(app(), self.broker)

    def working(self, workers: int, log: Path) -> AbstractContextManager[list[int]]:
        """Run ``celery worker``."""
        command = [sys.executable, "-m", "celery", "-A", f"{__name__}:worker_app", "worker"]
        command += ["--pool", "prefork", "--concurrency", str(workers), "--loglevel", "ERROR"]
        return programs([command + (_TUNED_OPTIONS if self.tuned else [])], log)


def _publish(broker: str, backend: str, settings: dict[str, Any]) -> None:
    os.environ[URL_VARIABLE] = broker
    os.environ[_SETTINGS_VARIABLE] = json.dumps({"result_backend": backend, **settings})


@functools.cache
def app() -> Any:
    """Return the app, as the environment describes it."""
    made = installed("celery").Celery("bench", broker=url())
    made.conf.update(json.loads(os.environ[_SETTINGS_VARIABLE]))
    # Run by root in a container, as everything here may be.
    os.environ.setdefault("C_FORCE_ROOT", "1")
    made.task(name="no_op")(work.no_op)
    made.task(name="spin")(work.spin)
    made.finalize()
    return made


def __getattr__(name: str) -> Any:
    # What the worker program imports by name.
    if name == "worker_app":
        return app()
    raise AttributeError(name)


class _CeleryClient:
    def __init__(self, celery: Any, broker: str) -> None:
        self._app = celery
        self._tasks = {name: celery.tasks[name] for name, _ in KINDS.values()}
        self._read = 0
        if broker == REDIS:
            redis = installed("redis")
            self._broker = redis.Redis.from_url(url())
            self._results = redis.Redis.from_url(celery.conf.result_backend)
        else:
            self._broker = None
            self._connection = celery.connection_for_read()

    def send(self, kind: str) -> Any:
        name, arguments = KINDS[kind]
        return self._tasks[name].apply_async(arguments)

    def send_many(self, kind: str, count: int) -> None:
        name, arguments = KINDS[kind]
        task = self._tasks[name]
        with self._app.producer_or_acquire() as producer:
            for _ in range(count):
                task.apply_async(arguments, producer=producer)

    def wait(self, handle: Any) -> None:
        handle.get(timeout=_TIMEOUT_S)
        self._read += 1

    def is_done(self, count: int) -> bool:
        if self.results() < count:
            return False
        if self._broker is None:
            return self._messages("celery") == 0
        return not self._broker.exists("celery", "unacked")

    def results(self) -> int:
        if self._broker is None:
            return self._read + self._messages(self._app.backend.oid)
        stored: int = self._results.dbsize()
        return stored

    def _messages(self, queue: str) -> int:
        channel = self._connection.default_channel
        waiting: int = channel.queue_declare(queue, passive=True).message_count
        return waiting

    def close(self) -> None:
        self._app.close()
