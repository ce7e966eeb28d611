"""``bind=True``: what a task knows of its own attempt, and may do about it. ``self`` is a ``BoundTask``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import msgspec

from millstream.primitives.errors import (
    ConfigurationError,
    MaxRetriesExceeded,
    PayloadError,
    Replaced,
    Retry,
    TaskRevoked,
)
from millstream.primitives.schema import datetime_us, us_datetime
from millstream.tasks.arguments import to_plain
from millstream.tasks.limits import NAME_LENGTH_MAX, PROGRESS_BYTES_MAX, RETRIES_MAX
from millstream.tasks.message import Changes, Claimed
from millstream.tasks.options import Seconds, check_name, check_priority, seconds_us

if TYPE_CHECKING:
    from millstream.tasks.task import AnyTask
    from millstream.tasks.workflow_plan import Step

_encoder = msgspec.msgpack.Encoder(enc_hook=to_plain)


class AttemptLink(Protocol):
    """How a running attempt reaches the store. Any thread of the process that runs it."""

    def now_us(self) -> int:
        """Return the time of the store, in UTC microseconds."""
        ...

    def report(self, task: Claimed, *, state: str, meta: bytes) -> bool:
        """Store progress; False when the task is not held any more."""
        ...

    def revoked(self, task: Claimed) -> str | None:
        """Return why the running task shall be revoked; None when it shall not."""
        ...

    def origin(self, task: Claimed) -> Origin:
        """Return who runs the task, and its place in a workflow."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The attempt that runs: ``self.request``, with Celery's names."""

    id: str
    task: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    retries: int
    """How often it was tried again: 0 in the first attempt."""
    attempt: int
    """The number of the attempt, deaths of workers counted: 1 is the first."""
    queue: str
    priority: int
    eta: datetime | None
    expires: datetime | None
    called_directly: bool = False
    hostname: str = ""
    """The worker that runs it, as ``millstream tasks show`` names it."""
    root_id: str | None = None
    """One id for all steps of a workflow; of other tasks their own."""
    group: str | None = None
    """The id of the innermost group that it is a member of."""

    @property
    def delivery_info(self) -> dict[str, Any]:
        """The queue as ``routing_key``, the priority, and whether a worker has died with it: ``redelivered``."""
        return {
            "routing_key": self.queue,
            "priority": self.priority,
            "redelivered": self.attempt > self.retries + 1,
        }


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an attempt stands: its worker, and its place in a workflow."""

    hostname: str
    root_id: str
    group: str | None


class BoundTask:
    """The first argument of a ``bind=True`` function. One attempt; any thread of its process."""

    def __init__(
        self,
        task: AnyTask[..., Any],
        request: Request,
        *,
        claimed: Claimed | None,
        link: AttemptLink | None,
    ) -> None:
        """Made for each attempt; without ``claimed`` the function was called directly."""
        self.task = task
        self.request = request
        self.exhausted = False
        """Whether ``retry`` found none left: then no rule of the task tries it again either."""
        self._claimed = claimed
        self._link = link

    @property
    def name(self) -> str:
        """The name of the task."""
        return self.task.name

    @property
    def max_retries(self) -> int:
        """How often it is tried again."""
        return self.task.options.policy.retries

    def retry(  # noqa: PLR0913 - Celery's
        self,
        *,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        exc: BaseException | None = None,
        countdown: Seconds | None = None,
        eta: datetime | None = None,
        max_retries: int | None = None,
        queue: str | None = None,
        priority: int | None = None,
        throw: bool = True,
    ) -> Exception:
        """End this attempt and ask for another one: ``raise self.retry(countdown=30, exc=error)``.

        The delay is ``countdown`` (seconds or timedelta), or until ``eta``, or by the task's backoff. ``exc`` is what
        the attempt is recorded with. ``args`` and ``kwargs``, ``queue`` and ``priority`` are those of the attempts that
        follow, where they are given; its lock and the key of ``unique=`` stay. Raises ``Retry``, or returns it with
        ``throw=False``. When no retry is left it raises ``exc``, or MaxRetriesExceeded, and the task fails. Called
        directly it raises ``exc`` too. In a batch ``throw=False`` raises neither: put what it returns among the values.
        """
        bound = self.max_retries if max_retries is None else max_retries
        if self._claimed is None or self.request.retries >= min(bound, RETRIES_MAX):
            self.exhausted = True
            error = self._none_left(exc, bound)
            if throw or self.task.options.batch is None or not isinstance(error, Exception):
                raise error
            return error
        request = Retry(f"attempt {self.request.attempt} of task {self.name!r} asks for another")
        request.delay_us = self._delay_us(countdown, eta)
        request.cause = exc
        if args is not None or kwargs is not None:
            request.arguments = self._arguments(args, kwargs or {})
        if queue is not None:
            check_name("queue", queue)
            request.queue = queue
        if priority is not None:
            check_priority(priority)
            request.priority = priority
        if throw:
            raise request
        return request

    def _arguments(self, args: Sequence[Any] | None, kwargs: Mapping[str, Any]) -> bytes:
        """Return the stored form of the arguments of this attempt with these in their place."""
        by_position = self.request.args if args is None else args
        given = self.task.arguments.names_given(by_position, kwargs)
        kept = {name: value for name, value in self.request.kwargs.items() if name not in given}
        return self.task.arguments.encode(by_position, {**kept, **kwargs})

    def replace(self, step: Step) -> NoReturn:
        """End this task and let a call, a chain or a group take its place: ``self.replace(a.s(1) | b.s())``.

        Its value becomes the value of this task, in whatever workflow that stands; its failure becomes the failure of
        this task. The end of this task and the begin of the other are one commit. Raises Replaced; called directly it
        raises ConfigurationError, for there is no worker.
        """
        if self._claimed is None or self.task.options.batch is not None:
            how = "was called directly" if self._claimed is None else "is a batch"
            raise ConfigurationError(
                f"task {self.name!r} {how} and cannot be replaced",
                expected="a worker that runs it alone",
                next_step="send it with `delay`, or send other tasks from a batch",
            )
        request = Replaced(f"task {self.name!r} is replaced", where=f"task id {self.request.id}")
        # A workflow is made of tasks, and a task of this module.
        from millstream.tasks.workflow_plan import plan_of, stored_form

        request.workflow = stored_form(plan_of(step))
        raise request

    def update_state(
        self, *, state: str = "PROGRESS", meta: Mapping[str, Any] | None = None
    ) -> bool:
        """Tell how far the task is; whoever holds its result sees ``meta`` as ``.info``, and is woken.

        ``meta`` is plain data, at most 64 KiB; with ``current`` and ``total`` the command line draws a bar. False when
        the task was taken from this worker meanwhile; called directly it does nothing and says True. Survives
        ``kill -9``. Raises PayloadError for what cannot be stored.
        """
        if not 0 < len(state) <= NAME_LENGTH_MAX:
            raise ConfigurationError(f"{state[:80]!r} is no state", expected="a short text")
        try:
            data = _encoder.encode({} if meta is None else meta)
        except (TypeError, ValueError, OverflowError, NotImplementedError) as error:
            raise PayloadError(
                f"the progress cannot be stored: {error}",
                where=f"task {self.name!r}",
                expected="plain data",
            ) from error
        if len(data) > PROGRESS_BYTES_MAX:
            raise PayloadError(
                f"the progress takes {len(data):,} bytes",
                where=f"task {self.name!r}",
                expected=f"at most {PROGRESS_BYTES_MAX:,} bytes",
            )
        if self._claimed is None or self._link is None:
            return True
        return self._link.report(self._claimed, state=state, meta=data)

    def is_revoked(self) -> bool:
        """Tell whether somebody revoked the task while it runs. Reads the store: 20 µs."""
        return self._revoke_reason() is not None

    def check_revoked(self) -> None:
        """Raise TaskRevoked if somebody revoked the task: the place to end early, in a long loop."""
        reason = self._revoke_reason()
        if reason is not None:
            error = TaskRevoked(f"the task was revoked: {reason}", where=f"task {self.name!r}")
            error.task_id = self.request.id
            raise error

    def _revoke_reason(self) -> str | None:
        if self._claimed is None or self._link is None:
            return None
        return self._link.revoked(self._claimed)

    def _delay_us(self, countdown: Seconds | None, eta: datetime | None) -> int | None:
        if countdown is not None:
            return max(0, seconds_us(countdown))
        if eta is None or self._link is None:
            return None
        return max(0, datetime_us(eta) - self._link.now_us())

    def _none_left(self, exc: BaseException | None, bound: int) -> BaseException:
        if exc is not None:
            return exc
        return MaxRetriesExceeded(
            f"task {self.name!r} cannot be retried: "
            + ("it was called directly" if self._claimed is None else f"all {bound} are used"),
            where=f"task id {self.request.id}",
            expected="fewer failures",
            next_step="raise `max_retries`, or pass the error as `exc=`",
        )


class BoundBatch:
    """The first argument of a ``bind=True`` batch: ``self.calls[n]`` is the attempt of the call that gave item ``n``.

    Put ``self.calls[n].retry(throw=False)`` among the values to try one call again. Any thread of its process.
    """

    def __init__(self, task: AnyTask[..., Any], calls: Sequence[BoundTask]) -> None:
        """Made for each run of the function."""
        self.task = task
        self.calls = calls

    @property
    def name(self) -> str:
        """The name of the task."""
        return self.task.name


def changes_of(retry: Retry) -> Changes | None:
    """Return what the attempts that follow have otherwise; None when nothing changes."""
    changes = Changes(retry.arguments, retry.queue, retry.priority)
    return None if changes == Changes(None, None, None) else changes


def bound_for(
    task: AnyTask[..., Any],
    claimed: Claimed,
    *,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    link: AttemptLink | None,
) -> BoundTask:
    """Return ``self`` for one attempt of a claimed task."""
    return BoundTask(task, request_of(claimed, args, kwargs, link), claimed=claimed, link=link)


def request_of(
    claimed: Claimed, args: Sequence[Any], kwargs: Mapping[str, Any], link: AttemptLink | None
) -> Request:
    """Return what is known of one attempt of a claimed task."""
    origin = Origin("", claimed.id, None) if link is None else link.origin(claimed)
    return Request(
        id=claimed.id,
        task=claimed.name,
        args=args,
        kwargs=kwargs,
        retries=claimed.failures,
        attempt=claimed.attempt,
        queue=claimed.queue,
        priority=claimed.priority,
        eta=None if claimed.eta_us is None else us_datetime(claimed.eta_us),
        expires=None if claimed.start_before_us is None else us_datetime(claimed.start_before_us),
        hostname=origin.hostname,
        root_id=origin.root_id,
        group=origin.group,
    )


def bound_directly(
    task: AnyTask[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> BoundTask:
    """Return ``self`` for a function that is called here and now."""
    options = task.options
    request = Request(
        id="",
        task=task.name,
        args=args,
        kwargs=kwargs,
        retries=0,
        attempt=1,
        queue=options.queue,
        priority=options.priority,
        eta=None,
        expires=None,
        called_directly=True,
    )
    return BoundTask(task, request, claimed=None, link=None)
