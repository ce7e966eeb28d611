"""A call that is not sent yet, and what may be said of it beside its arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, TypedDict, TypeVar, Unpack

import msgspec

from millstream.primitives.errors import ConfigurationError
from millstream.primitives.identity import new_id
from millstream.primitives.schema import datetime_us
from millstream.tasks.attempt_limits import AttemptLimits, checked
from millstream.tasks.gates import LOCK_PREFIX
from millstream.tasks.message import TaskMessage
from millstream.tasks.options import Seconds, check_name, check_priority, seconds_us
from millstream.tasks.unique import unique_key

if TYPE_CHECKING:
    from millstream.tasks.result import AsyncResult
    from millstream.tasks.row_calls import RowCalls
    from millstream.tasks.task import AnyTask
    from millstream.tasks.workflow import Workflow
    from millstream.tasks.workflow_plan import Step

R = TypeVar("R")


class CallKeywords(TypedDict, total=False):
    """The options of one call; ``AnyTask.apply_async`` says what each does."""

    countdown: Seconds | None
    eta: datetime | None
    expires: Seconds | datetime | None
    queue: str | None
    priority: int | None
    task_id: str | None
    soft_time_limit: Seconds | None
    time_limit: Seconds | None
    link: Sequence[Step] | Step
    link_error: Sequence[Step] | Step


class Signature(msgspec.Struct, Generic[R], frozen=True):
    """A call that is not sent yet: ``task.s(…)``. Checked when it is sent."""

    task: Any  # AnyTask[..., R], which is defined elsewhere and holds no place for its type.
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    countdown: Seconds | None = None
    eta: datetime | None = None
    expires: Seconds | datetime | None = None
    queue: str | None = None
    priority: int | None = None
    task_id: str | None = None
    soft_time_limit: Seconds | None = None
    time_limit: Seconds | None = None
    immutable: bool = False
    """Made by ``si``: takes no result of a task before it."""
    link: Sequence[Step] | Step = ()
    """What is sent with its result when it succeeds."""
    link_error: Sequence[Step] | Step = ()
    """What is sent when it fails for good: with the id of its task, or if it takes three also error and traceback."""

    def __or__(self, other: Step) -> Workflow:
        """Return the chain of this call and then the other: ``a.s(1) | b.s()``."""
        from millstream.tasks.workflow import chain

        return chain(self, other)

    def on_error(self, callback: Step) -> Signature[R]:
        """Return the same call with one more callback for its failure, see ``link_error``."""
        return msgspec.structs.replace(self, link_error=(*steps_of(self.link_error), callback))

    def set(self, **options: Unpack[CallKeywords]) -> Signature[R]:
        """Return the same call with these options changed, see ``apply_async``."""
        return msgspec.structs.replace(self, **options)

    def delay(self) -> AsyncResult[R]:
        """Send the call, see ``AnyTask.delay``."""
        result: AsyncResult[R] = self.task.send(self)
        return result

    async def adelay(self) -> AsyncResult[R]:
        """Send the call without blocking the event loop."""
        result: AsyncResult[R] = await self.task.asend(self)
        return result

    def apply_async(self, **options: Unpack[CallKeywords]) -> AsyncResult[R]:
        """Send the call with these options changed."""
        return self.set(**options).delay()

    def row_calls(self) -> RowCalls:
        """Return this call for each row of a flow, see ``Flow.enqueue``."""
        from millstream.tasks.row_calls import RowCalls

        return RowCalls(self)

    def message(self, now_us: int) -> TaskMessage:
        """Return the call as it is stored. Raises TaskArgumentError or ConfigurationError."""
        if self.link or self.link_error:
            raise ConfigurationError(
                "a call with callbacks cannot be sent this way",
                where=f"task {self.task.name!r}",
                expected="delay or apply_async, or a place in a workflow",
                next_step="let a task send it",
            )
        task: AnyTask[..., R] = self.task
        options = task.options
        if self.queue is not None:
            check_name("queue", self.queue)
        if self.priority is not None:
            check_priority(self.priority)
        if self.task_id is not None:
            check_name("task", self.task_id)
        message = TaskMessage(
            id=self.task_id if self.task_id is not None else new_id(),
            name=task.name,
            queue=options.queue if self.queue is None else self.queue,
            priority=options.priority if self.priority is None else self.priority,
            arguments=task.arguments.encode(self.args, self.kwargs),
            acks_late=options.acks_late,
            eta_us=_eta_us(self.countdown, self.eta, now_us),
        )
        if self.soft_time_limit is not None or self.time_limit is not None:
            message = self._limited(message)
        if task.is_conditional or self.expires is not None:
            return self._conditional(message, task, now_us)
        return message

    def _limited(self, message: TaskMessage) -> TaskMessage:
        soft, hard = self.soft_time_limit, self.time_limit
        limits = AttemptLimits(
            soft_us=None if soft is None else seconds_us(soft),
            hard_us=None if hard is None else seconds_us(hard),
        )
        checked(limits, where=f"a call of task {message.name!r}")
        return msgspec.structs.replace(
            message, soft_time_limit_us=limits.soft_us, time_limit_us=limits.hard_us
        )

    def _conditional(self, message: TaskMessage, task: AnyTask[..., R], now_us: int) -> TaskMessage:
        """Add when the task expires, its limit, and what depends on arguments: the lock and the key of ``unique=``."""
        options = task.options
        lock_key, key, until_us = None, None, 0
        if options.lock or options.unique is not None:
            given = task.arguments.given(self.args, self.kwargs)
            if options.lock:
                lock_key = LOCK_PREFIX + _lock_name(task.name, options.lock, given)
            if options.unique is not None:
                key = unique_key(task.name, options.unique, given)
                until_us = now_us + options.unique.period_us
        return msgspec.structs.replace(
            message,
            start_before_us=_start_before_us(self.expires, options.expires_us, now_us),
            limit=task.limit,
            lock_key=lock_key,
            unique_key=key,
            unique_until_us=until_us,
        )


def steps_of(value: Sequence[Step] | Step) -> Sequence[Step]:
    """Return callbacks as a sequence."""
    return tuple(value) if isinstance(value, Sequence) else (value,)


def _lock_name(task: str, lock: bool | str, given: Mapping[str, Any]) -> str:
    if not isinstance(lock, str):
        return task
    try:
        name = lock.format_map(given)
    except (KeyError, IndexError, AttributeError, ValueError) as error:
        raise ConfigurationError(
            f"the lock {lock!r} cannot be filled in: {type(error).__name__}: {error}",
            where=f"task {task!r}",
            expected=f"parameters in braces: {', '.join(given)}",
        ) from error
    check_name("lock", name)
    return name


def _eta_us(countdown: Seconds | None, eta: datetime | None, now_us: int) -> int | None:
    if countdown is None:
        return None if eta is None else datetime_us(eta)
    if eta is not None:
        raise ConfigurationError(
            "both countdown and eta are given", expected="one of them", next_step="drop one"
        )
    return now_us + seconds_us(countdown)


def _start_before_us(
    expires: Seconds | datetime | None, default_us: int | None, now_us: int
) -> int | None:
    if expires is None:
        return None if default_us is None else now_us + default_us
    return datetime_us(expires) if isinstance(expires, datetime) else now_us + seconds_us(expires)
