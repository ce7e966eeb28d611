"""Signals: functions of yours that are called when something happens to a task or a worker.

    @app.signals.task_failure.connect
    def report(event: ms.signals.TaskFailure) -> None: ...

A receiver takes one event and is held until it is disconnected: one that nobody else holds does not vanish.
Receivers are called one after another, in the order in which they were connected, in the thread where it happens.
One that raises is reported to the logger ``millstream.signals`` with its traceback; neither the task nor the other
receivers learn of it. Without receivers an attempt costs a look at one flag.

What is told of an attempt is told before its end is committed: if the worker is killed in between, the attempt ends as
a death, and the task may run and be told of again.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from millstream.primitives.errors import ConfigurationError, SoftTimeLimitExceeded
from millstream.tasks.bound import Request
from millstream.tasks.message import TaskMessage

E = TypeVar("E")
_log = logging.getLogger("millstream.signals")


class Signal(Generic[E]):
    """One thing that may happen. Connect while the app is imported; any thread may send."""

    def __init__(self, name: str, changed: Callable[[], None]) -> None:
        """``changed`` is called when a receiver comes or goes."""
        self.name = name
        self.receivers: tuple[Callable[[E], object], ...] = ()
        """What is called, in this order."""
        self._changed = changed

    def connect(self, receiver: Callable[[E], object]) -> Callable[[E], object]:
        """Call ``receiver`` from now on; returns it, so this is a decorator. Twice is once.

        Raises ConfigurationError for an ``async def``: nobody would await it.
        """
        if inspect.iscoroutinefunction(receiver):
            raise ConfigurationError(
                f"{receiver!r} cannot receive {self.name}: it is async",
                expected="a plain function with one parameter, the event",
                next_step="send a task from it, if it has to wait for something",
            )
        if receiver not in self.receivers:
            self.receivers = (*self.receivers, receiver)
            self._changed()
        return receiver

    def disconnect(self, receiver: Callable[[E], object]) -> bool:
        """Do not call ``receiver`` any more; False when it was not connected."""
        if receiver not in self.receivers:
            return False
        self.receivers = tuple(one for one in self.receivers if one != receiver)
        self._changed()
        return True

    def send(self, event: E) -> None:
        """Call every receiver. Errors of theirs are reported and go no further, SystemExit neither."""
        for receiver in self.receivers:
            try:
                receiver(event)
            except SoftTimeLimitExceeded:
                raise  # It is meant for the task, whose time is over while a receiver runs.
            except (Exception, SystemExit):  # noqa: BLE001 - the receiver is somebody else's code
                _log.exception("a receiver of %s raised: %r", self.name, receiver)


@dataclass(frozen=True, slots=True, kw_only=True)
class BeforeTaskPublish:
    """A call is about to be stored."""

    message: TaskMessage
    """Id, task, queue, priority, ETA; arguments in their stored form."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPrerun:
    """An attempt begins: its arguments are read, its function is called next."""

    request: Request


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSuccess:
    """An attempt returned."""

    request: Request
    result: Any
    runtime_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRetry:
    """An attempt raised, and another one follows."""

    request: Request
    exception: BaseException
    delay_us: int
    """How long the next attempt waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFailure:
    """An attempt raised, and none follows."""

    request: Request
    exception: BaseException


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRevoked:
    """An attempt was ended, or raised, after its task had been revoked."""

    request: Request
    reason: str
    terminated: bool
    """Whether its process is ended with it; nothing else is told of the attempt then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPostrun:
    """An attempt that had begun is over, however; comes after the signal that says how."""

    request: Request
    runtime_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerProcess:
    """A worker process, for the four signals about it."""

    node: str
    """The worker it belongs to, as in ``millstream inspect``; empty without a supervisor."""
    pool: str
    queues: tuple[str, ...]


class Signals:
    """All signals of one app: ``app.signals``."""

    def __init__(self) -> None:
        """Without receivers."""
        self.hears_attempts = False
        """Whether anybody is told of attempts."""
        changed = self._changed
        self.before_task_publish: Signal[BeforeTaskPublish] = Signal("before_task_publish", changed)
        """In the thread that sends, before the commit."""
        self.task_prerun: Signal[TaskPrerun] = Signal("task_prerun", changed)
        """In the thread that runs the attempt, as the five that follow; of a coroutine that of its event loop."""
        self.task_success: Signal[TaskSuccess] = Signal("task_success", changed)
        self.task_retry: Signal[TaskRetry] = Signal("task_retry", changed)
        self.task_failure: Signal[TaskFailure] = Signal("task_failure", changed)
        self.task_revoked: Signal[TaskRevoked] = Signal("task_revoked", changed)
        """When the process is ended with its task: in a thread of the worker."""
        self.task_postrun: Signal[TaskPostrun] = Signal("task_postrun", changed)
        self.worker_process_init: Signal[WorkerProcess] = Signal("worker_process_init", changed)
        """In the main thread of a worker process, once the app is imported."""
        self.worker_ready: Signal[WorkerProcess] = Signal("worker_ready", changed)
        """In the main thread of each worker process, before its first claim."""
        self.worker_shutdown: Signal[WorkerProcess] = Signal("worker_shutdown", changed)
        """In the main thread of each worker process that ends in order, behind its last task."""
        self.worker_process_shutdown: Signal[WorkerProcess] = Signal(
            "worker_process_shutdown", changed
        )
        """In the main thread of a worker process that ends in order, once its store is closed."""

    def _changed(self) -> None:
        self.hears_attempts = any(
            signal.receivers
            for signal in (
                self.task_prerun,
                self.task_success,
                self.task_retry,
                self.task_failure,
                self.task_revoked,
                self.task_postrun,
            )
        )
