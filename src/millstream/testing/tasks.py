"""For tests of code that sends tasks: what was sent, and running it here, without a worker.

    with TaskTest(app, tmp_path) as tasks:          # or the fixture ``millstream_tasks``
        sign_up("ann")                              # the code under test calls send_mail.delay(…)
        tasks.assert_enqueued(send_mail, "ann")
        tasks.drain()                               # runs it, retries and ETAs too: time is virtual

In mode ``inline`` each call runs as soon as it is sent, as with Celery's ``task_always_eager``, but through a real
store: arguments and results are stored and read back, states and retries are what they will be. ``async def`` tasks
cannot run inline, nor be drained, inside a running event loop.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, Literal, Self

from millstream.app import App
from millstream.engines.local.task_link import LocalAttemptLink
from millstream.engines.local.tasks import LocalTasks
from millstream.engines.local.worker_dependencies import WorkerDependencies
from millstream.engines.local.worker_execute import Executor
from millstream.primitives.errors import ConfigurationError, ResultTimeout
from millstream.store import Store
from millstream.tasks.batch import works_of
from millstream.tasks.limits import CLAIM_TASKS_MAX, LEASE_US
from millstream.tasks.message import Completion, Lease, TaskMessage, TaskStatus
from millstream.tasks.options import QUEUE_DEFAULT
from millstream.tasks.result import unknown_task_id
from millstream.tasks.task import AnyTask
from millstream.tasks.workflow_plan import Plan
from millstream.testing.clock import VirtualClock

Mode = Literal["manual", "inline"]
ATTEMPTS_MAX = 100_000
"""Attempts that one ``drain`` runs: a task that sends itself again has no end."""


class TaskTest:
    """Takes what an app's tasks send, while the block lasts. One thread sends and drains."""

    def __init__(
        self, app: App, folder: str | os.PathLike[str], *, mode: Mode = "manual", seed: int = 0
    ) -> None:
        """``folder`` is where a store is made, such as ``tmp_path``; ``seed`` decides the jitter of retries."""
        if mode not in {"manual", "inline"}:
            raise ConfigurationError(f"{mode!r} is no mode", expected="'manual' or 'inline'")
        self._app = app
        self._path = Path(folder) / "tasks-under-test.mill"
        self._mode = mode
        self._seed = seed
        self.clock = VirtualClock()
        """The time of all tasks; ``clock.advance("1h")`` lets it pass."""
        self.sent: list[TaskMessage] = []
        """Every call that was sent, in its order; of a workflow those that take no value of another."""

    def __enter__(self) -> Self:
        """Take over the app's tasks."""
        self._store = Store.open(self._path, durability="process", clock=self.clock)
        self.engine = _Recorder(self._store, self._on_sent)
        self._app.tasks.substitute(self.engine)
        self._runner = asyncio.Runner()
        self._dependencies = WorkerDependencies(has_loop=True)
        self._chance = Random(self._seed)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give the tasks back to the app."""
        self._app.tasks.substitute(None)
        try:
            if self._dependencies.uses_loop:
                self._runner.run(self._dependencies.aclose())
            self._dependencies.close()
        finally:
            self._runner.close()
            self._store.close()

    def enqueued(
        self, task: AnyTask[..., Any], *args: object, **kwargs: object
    ) -> list[TaskMessage]:
        """Return the calls of a task that were sent; with arguments only those that bind to the same values."""
        calls = [message for message in self.sent if message.name == task.name]
        if not args and not kwargs:
            return calls
        wanted = task.arguments.encode(args, kwargs)
        return [message for message in calls if message.arguments == wanted]

    def assert_enqueued(
        self,
        task: AnyTask[..., Any],
        *args: object,
        times: int | None = None,
        queue: str | None = None,
        priority: int | None = None,
        **kwargs: object,
    ) -> list[TaskMessage]:
        """Raise AssertionError unless such a call was sent (``times`` times); return those calls."""
        found = [
            message
            for message in self.enqueued(task, *args, **kwargs)
            if queue in (None, message.queue) and priority in (None, message.priority)
        ]
        if not found if times is None else len(found) != times:
            calls = "\n".join(f"  {self._shown(message)}" for message in self.sent) or "  nothing"
            raise AssertionError(
                f"{task.name} was sent {len(found)} times as asked for; sent were:\n{calls}"
            )
        return found

    def refute_enqueued(self, task: AnyTask[..., Any], *args: object, **kwargs: object) -> None:
        """Raise AssertionError if such a call was sent."""
        found = self.enqueued(task, *args, **kwargs)
        if found:
            raise AssertionError(f"sent was {', '.join(self._shown(one) for one in found)}")

    def drain(self, *, wait: bool = True) -> int:
        """Run what was sent, and what that sends, until nothing is left; return the number of attempts.

        With ``wait`` the clock is advanced to each ETA, backoff and rate; without it what is not due stays. Errors of
        tasks are kept with them, as in a worker. Raises ConfigurationError when there is no end.
        """
        attempts = 0
        lease = self._join()
        executor = self._executor(lease)
        while attempts < ATTEMPTS_MAX:
            claimed = self.engine.exchange(lease, (), want=CLAIM_TASKS_MAX).claimed
            if not claimed and not (wait and self._wait(lease)):
                break
            done: list[Completion] = []
            for work in works_of(claimed):
                done += executor.run(work)
            self.engine.exchange(lease, done, want=0)
            attempts += len(done)
            if set(self._queues()) - set(lease.queues):
                self.engine.leave(lease)
                lease = self._join()
                executor = self._executor(lease)
        else:
            raise ConfigurationError(
                f"{attempts:,} attempts, and still tasks are left",
                expected="tasks that come to an end",
                next_step="look for a task that sends itself again, or use drain(wait=False)",
            )
        self.engine.leave(lease)
        return attempts

    def _join(self) -> Lease:
        batches = self._app.tasks.batches()
        return self.engine.join(self._queues(), lease_us=LEASE_US, batches=batches)

    def _executor(self, lease: Lease) -> Executor:
        return Executor(
            self._app.tasks,
            clock=self.clock,
            chance=self._chance,
            run_coroutine=self._run_coroutine,
            link=LocalAttemptLink(self.engine, lambda: lease),
            dependencies=self._dependencies,
        )

    def _run_coroutine(self, coroutine: Any) -> Any:  # noqa: ANN401 - what the user's function returns
        return self._runner.run(coroutine)

    def _wait(self, lease: Lease) -> bool:
        """Advance to the next moment at which something is due; False when nothing waits for one."""
        ready = self.engine.ready(lease.queues)
        if ready.now:
            return True
        if ready.next_due_us is None:
            return False
        self.clock.wait_s(max(0, ready.next_due_us - self.clock.now_us()) / 1_000_000)
        return True

    def _queues(self) -> tuple[str, ...]:
        declared = (self._app.tasks.get(name).options.queue for name in self._app.tasks.names())
        stored = (queue.name for queue in self.engine.control.queues())
        return tuple(sorted({QUEUE_DEFAULT, *declared, *stored}))

    def _on_sent(self, messages: Sequence[TaskMessage]) -> None:
        self.sent += messages
        if self._mode == "inline":
            self.drain()

    def _shown(self, message: TaskMessage) -> str:
        task = self._app.tasks.get(message.name)
        args, kwargs = task.arguments.decode(message.arguments)
        values = [*map(repr, args), *(f"{key}={value!r}" for key, value in kwargs.items())]
        return f"{message.name}({', '.join(values)}) in {message.queue!r}"


class _Recorder(LocalTasks):
    """The tasks of a store that tell what was sent, and let nobody wait for a worker that is not there."""

    def __init__(self, store: Store, on_sent: Callable[[Sequence[TaskMessage]], None]) -> None:
        super().__init__(store)
        self._on_sent = on_sent

    def enqueue(self, messages: Sequence[TaskMessage]) -> Mapping[str, str]:
        standing = super().enqueue(messages)
        self._on_sent([message for message in messages if message.id not in standing])
        return standing

    async def aenqueue(self, messages: Sequence[TaskMessage]) -> Mapping[str, str]:
        return await asyncio.to_thread(self.enqueue, messages)

    def start_workflow(self, plan: Plan) -> None:
        super().start_workflow(plan)
        calls = [node.call for node in plan.nodes if node.call is not None]
        self._on_sent([call.message for call in calls if not call.inputs])

    def wait(self, task_id: str, timeout_s: float | None) -> TaskStatus:
        status = self.status(task_id)
        if status is None:
            raise unknown_task_id(task_id)
        if status.state.is_final:
            return status
        raise ResultTimeout(
            f"task {status.name!r} has not run; it is {status.state}",
            where=f"task id {task_id}",
            expected="a task that was drained",
            next_step="call drain() before its result is asked for, or use mode='inline'",
        )

    async def await_end(self, task_id: str, timeout_s: float | None) -> TaskStatus:
        return self.wait(task_id, timeout_s)
