"""One attempt of one task: read the arguments, run the function, store what came of it as a completion."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from millstream.engines.local.worker_dependencies import WorkerDependencies
from millstream.engines.local.worker_limits import LimitKeeper
from millstream.engines.local.worker_signals import AttemptSignals
from millstream.engines.local.worker_soft import under_soft_limit
from millstream.primitives.backoff import Chance
from millstream.primitives.clock import Clock
from millstream.primitives.errors import (
    ConfigurationError,
    Ignore,
    MillstreamError,
    PayloadError,
    Replaced,
    Retry,
    SoftTimeLimitExceeded,
)
from millstream.primitives.telemetry import reach
from millstream.tasks import opened
from millstream.tasks.attempt_limits import AttemptLimits
from millstream.tasks.bound import (
    AttemptLink,
    BoundBatch,
    BoundTask,
    bound_for,
    changes_of,
    request_of,
)
from millstream.tasks.limits import ERROR_TEXT_MAX, TRACEBACK_TEXT_MAX
from millstream.tasks.message import Claimed, Completion, Raised, Succeeded, Work
from millstream.tasks.opened import acall_with, call_with
from millstream.tasks.registry import TaskRegistry
from millstream.tasks.retry import DEFAULT_POLICY, NO_RETRIES, RetryPolicy, TryAgain, after_failure
from millstream.tasks.signals import TaskRevoked
from millstream.tasks.task import AnyTask

_CUT_SHORT = "its worker was told to end at once while it ran, and it may run only once"
RunCoroutine = Callable[[Coroutine[Any, Any, Any]], Any]
Prepare = Callable[[object], object]


class Executor:
    """Runs attempts in the thread, or on the event loop, that calls. Any thread."""

    def __init__(
        self,
        registry: TaskRegistry,
        *,
        clock: Clock,
        chance: Chance,
        run_coroutine: RunCoroutine,
        link: AttemptLink,
        dependencies: WorkerDependencies,
        limits: LimitKeeper | None = None,
    ) -> None:
        """``chance`` spreads the retries; ``run_coroutine`` runs what an ``async def`` task returns.

        ``link`` is how tasks with ``bind=True`` reach the store; ``dependencies`` are shared by all attempts. Without
        ``limits`` attempts have none.
        """
        self._limits = limits
        self.dependencies = dependencies
        self.link = link
        self.registry = registry
        self.clock = clock
        self._chance = chance
        self._run_coroutine = run_coroutine

    def run(self, work: Work) -> Sequence[Completion]:
        """Return how each attempt ended. Whatever the task raises becomes part of the completions."""
        attempt = self._attempt(work)
        try:
            limits = self._limits_of(work)
        except ConfigurationError as error:
            return attempt.raised(error)
        if limits is None or self._limits is None:
            return self._ended(attempt, None)
        guard = self._limits.guard(work, limits, is_coroutine=self.is_coroutine(work))
        try:
            self._limits.open(guard)
            completions = self._ended(attempt, limits.soft_us)
            self._limits.close(guard)
        except SoftTimeLimitExceeded as error:
            # It came when the function had returned already, or raised. It comes once, so nothing follows.
            self._limits.close(guard)
            return attempt.raised(error)
        return completions

    def _ended(
        self, attempt: _Attempt | _BatchAttempt, soft_us: int | None
    ) -> Sequence[Completion]:
        try:
            value = attempt.call()
            if attempt.is_async:
                value = self._run_coroutine(_limited(value, soft_us))
            return attempt.succeeded(value)
        except BaseException as error:  # noqa: BLE001 - a task may raise anything, SystemExit too
            return attempt.raised(error)

    def _limits_of(self, work: Work) -> AttemptLimits | None:
        return None if self._limits is None else self._limits.limits_of(work)

    async def run_in_loop(self, work: Work) -> Sequence[Completion]:
        """``run`` for a coroutine task, on the event loop that calls it, beside others. A cancellation is an error."""
        attempt = self._attempt(work)
        try:
            limits = self._limits_of(work)
            coroutine = _limited(attempt.call(), None if limits is None else limits.soft_us)
            return attempt.succeeded(await coroutine)
        except BaseException as error:  # noqa: BLE001 - as in run
            return attempt.raised(error)

    def _attempt(self, work: Work) -> _Attempt | _BatchAttempt:
        task = self.registry.find(work[0].name)
        if task is not None and task.options.batch is not None:
            return _BatchAttempt(self, task, work)
        return _Attempt(self, work[0])

    def call(
        self,
        task: AnyTask[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        prepare: Prepare,
    ) -> Any:  # noqa: ANN401 - what the user's function returns
        """Call a function with its dependencies. What it returns is prepared before they are closed."""
        openings = task.openings
        if not openings:
            return task.function(*args, **kwargs)
        if not task.is_async:
            return call_with(
                openings,
                self.dependencies,
                lambda values: _prepared(task.function(*args, **kwargs, **values), prepare),
            )

        async def acall(values: dict[str, Any]) -> Prepared:
            return _prepared(await task.function(*args, **kwargs, **values), prepare)

        return acall_with(openings, self.dependencies, acall)

    def is_coroutine(self, work: Work) -> bool:
        """Tell whether the task is known, and an ``async def``."""
        task = self.registry.find(work[0].name)
        return task is not None and task.is_async

    def telling(
        self, claimed: Claimed, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> AttemptSignals:
        """Return what tells the receivers of an attempt."""
        request = request_of(claimed, args, kwargs, self.link)
        return AttemptSignals(self.registry.signals, request, lambda: self.link.revoked(claimed))

    def tell_terminated(self, claimed: Claimed, reason: str) -> None:
        """Tell the receivers that a running task was revoked, and that its process ends with it. Any thread."""
        signal = self.registry.signals.task_revoked
        if not signal.receivers:
            return
        task = self.registry.get(claimed.name)
        args, kwargs = task.arguments.decode(claimed.arguments)
        request = request_of(claimed, args, kwargs, self.link)
        signal.send(TaskRevoked(request=request, reason=reason, terminated=True))

    def runs_again(self, claimed: Claimed) -> bool:
        """Tell whether the task is run again when its worker dies; so it is for all that are unknown."""
        task = self.registry.find(claimed.name)
        return task is None or task.options.acks_late

    def cut_short(
        self, running: Iterable[Claimed], finished: Iterable[Completion]
    ) -> list[Completion]:
        """Return the ends of attempts that may not be repeated, and whose process ends now.

        Those of ``finished`` have come to an end of their own meanwhile.
        """
        ended = {one.task.seq for one in finished}
        now_us = self.clock.now_us()
        return [
            Raised(task, "WorkerStopped", _CUT_SHORT, "", None, now_us, now_us)
            for task in running
            if task.seq not in ended and not self.runs_again(task)
        ]

    def failed(
        self, claimed: Claimed, error: BaseException, started_us: int, *, policy: RetryPolicy
    ) -> Raised:
        """Return the end of an attempt that raised ``error``, by the rules of ``policy``."""
        failures = claimed.failures + 1
        verdict = after_failure(policy, failures=failures, error=error, chance=self._chance)
        ended_us = self.clock.now_us()
        changes = None
        if isinstance(error, Retry):
            changes = changes_of(error)
            error = error if error.cause is None else error.cause
        reach("task.finished")
        return Raised(
            claimed,
            error_type=f"{type(error).__module__}.{type(error).__qualname__}".removeprefix(
                "builtins."
            ),
            error=_text_of(error),
            traceback=_traceback_of(error),
            retry_delay_us=verdict.delay_us if isinstance(verdict, TryAgain) else None,
            started_us=started_us,
            ended_us=ended_us,
            changes=changes,
        )


@dataclass(frozen=True, slots=True)
class Prepared:
    """What came of a function whose dependencies are closed: found good, and stored as it is."""

    value: Any
    returned: Any
    """What the function returned, for those who are told of it."""


def _prepared(returned: object, prepare: Prepare) -> Prepared:
    return Prepared(prepare(returned), returned)


class _Attempt:
    """One attempt from its start to its completion."""

    def __init__(self, executor: Executor, claimed: Claimed) -> None:
        self._executor = executor
        self._claimed = claimed
        self._policy = DEFAULT_POLICY
        self._task: AnyTask[..., Any] | None = None
        self._bound: BoundTask | None = None
        self._telling: AttemptSignals | None = None
        self._started_us = executor.clock.now_us()
        reach("task.started")

    @property
    def is_async(self) -> bool:
        return self._task is not None and self._task.is_async

    def call(self) -> Any:  # noqa: ANN401 - what the user's function returns
        """Call the function. Raises what it raises, and for a name or arguments that are not understood."""
        claimed = self._claimed
        self._task = task = self._executor.registry.get(claimed.name)
        self._policy = task.options.policy
        args, kwargs = task.arguments.decode(claimed.arguments)
        if self._executor.registry.signals.hears_attempts:
            self._telling = self._executor.telling(claimed, args, kwargs)
            self._telling.begins()
        if task.bind:
            link = self._executor.link
            self._bound = bound_for(task, claimed, args=args, kwargs=kwargs, link=link)
            args = [self._bound, *args]
        return self._executor.call(task, args, kwargs, task.returned.encode)

    def succeeded(self, value: object) -> Sequence[Completion]:
        task = self._task
        assert task is not None, "only what was called has a value"
        result = value.value if type(value) is Prepared else task.returned.encode(value)
        ended_us = self._executor.clock.now_us()
        if self._telling is not None:
            returned = value.returned if type(value) is Prepared else value
            self._telling.returned(returned, ended_us - self._started_us)
        reach("task.finished")
        ttl_us = task.options.result_ttl_us
        return [Succeeded(self._claimed, result, ttl_us, self._started_us, ended_us)]

    def raised(self, error: BaseException) -> Sequence[Completion]:
        if isinstance(error, Replaced | Ignore):
            ended_us = self._executor.clock.now_us()
            reach("task.finished")
            if self._telling is not None and isinstance(error, Ignore):
                self._telling.is_over(ended_us - self._started_us)
            elif self._telling is not None:
                self._telling.returned(None, ended_us - self._started_us)
            workflow = error.workflow if isinstance(error, Replaced) else None
            return [Succeeded(self._claimed, b"\xc0", 0, self._started_us, ended_us, workflow)]
        exhausted = self._bound is not None and self._bound.exhausted
        policy = NO_RETRIES if exhausted else self._policy
        completion = self._executor.failed(self._claimed, error, self._started_us, policy=policy)
        if self._telling is None and self._executor.registry.signals.hears_attempts:
            self._telling = self._executor.telling(self._claimed, (), {})
        if self._telling is not None:
            self._telling.raised(error, completion)
        return [completion]


class _BatchAttempt:
    """One attempt of each of the tasks of a batch: one call of the function, and so many completions."""

    def __init__(self, executor: Executor, task: AnyTask[..., Any], work: Work) -> None:
        self._executor = executor
        self._task = task
        self._work = work
        self._started_us = executor.clock.now_us()
        self._calls: dict[int, BoundTask] = {}
        """What is given to the function, by its place in ``work``."""
        self._ends: dict[int, Completion] = {}
        """What ended before that, because its arguments cannot be read."""
        self._tellings: dict[int, AttemptSignals] = {}
        reach("task.started")

    @property
    def is_async(self) -> bool:
        return self._task.is_async

    def call(self) -> Any:  # noqa: ANN401 - what the user's function returns
        """Call the function once. Raises what it raises."""
        task, items = self._task, []
        for place, claimed in enumerate(self._work):
            try:
                args, kwargs = task.arguments.decode(claimed.arguments)
            except MillstreamError as error:
                self._ends[place] = self._failed(place, error)
                continue
            items.append((*args, *kwargs.values())[0])
            link = self._executor.link
            self._calls[place] = bound_for(task, claimed, args=args, kwargs=kwargs, link=link)
            if self._executor.registry.signals.hears_attempts:
                telling = self._tellings[place] = self._executor.telling(claimed, args, kwargs)
                telling.begins()
        if not items:
            return _nothing() if task.is_async else []
        bound = (BoundBatch(task, list(self._calls.values())),) if task.bind else ()
        return self._executor.call(task, (*bound, items), {}, self._prepared)

    def succeeded(self, value: object) -> Sequence[Completion]:
        if type(value) is not Prepared:
            value = _prepared(value, self._prepared)
        results = self._results(value.returned)
        for place, data, result in zip(self._calls, value.value, results, strict=True):
            if isinstance(data, Exception):
                self._ends[place] = self._failed(place, data)
                continue
            ttl_us, now_us = self._task.options.result_ttl_us, self._executor.clock.now_us()
            claimed = self._work[place]
            self._ends[place] = Succeeded(claimed, data, ttl_us, self._started_us, now_us)
            if place in self._tellings:
                self._tellings[place].returned(result, now_us - self._started_us)
        reach("task.finished")
        return self._completions()

    def raised(self, error: BaseException) -> Sequence[Completion]:
        if isinstance(error, Retry):
            error.arguments = None  # They were meant for one of the calls.
        for place in range(len(self._work)):
            if place not in self._ends:
                self._ends[place] = self._failed(place, error)
        return self._completions()

    def _prepared(self, value: object) -> Sequence[bytes | Exception]:
        """Return what is stored of each call: its value, or its error. Raises PayloadError as ``_results``."""
        prepared: list[bytes | Exception] = []
        for result in self._results(value):
            if isinstance(result, Exception):
                prepared.append(result)
                continue
            try:
                prepared.append(self._task.returned.encode(result))
            except MillstreamError as error:
                prepared.append(error)
        return prepared

    def _results(self, value: object) -> Sequence[object]:
        """Return a value for each call. Raises PayloadError when there are not as many."""
        if value is None:
            return [None] * len(self._calls)
        if isinstance(value, list | tuple) and len(value) == len(self._calls):
            return value
        what = f"{len(value)} values" if isinstance(value, list | tuple) else type(value).__name__
        raise PayloadError(
            f"the batch of {len(self._calls)} calls returned {what}",
            where=f"task {self._task.name!r}",
            expected="a list with one value or error for each call, in their order, or None",
            next_step="return as many values as the function is given",
        )

    def _failed(self, place: int, error: BaseException) -> Completion:
        if isinstance(error, Ignore):
            now_us = self._executor.clock.now_us()
            if place in self._tellings:
                self._tellings[place].is_over(now_us - self._started_us)
            return Succeeded(self._work[place], b"\xc0", 0, self._started_us, now_us)
        call = self._calls.get(place)
        policy = NO_RETRIES if call is not None and call.exhausted else self._task.options.policy
        claimed = self._work[place]
        completion = self._executor.failed(claimed, error, self._started_us, policy=policy)
        if self._executor.registry.signals.hears_attempts:
            telling = self._tellings.get(place) or self._executor.telling(claimed, (), {})
            telling.raised(error, completion)
        return completion

    def _completions(self) -> Sequence[Completion]:
        return [self._ends[place] for place in range(len(self._work))]


async def _nothing() -> list[object]:
    return []


def _limited(coroutine: Coroutine[Any, Any, Any], soft_us: int | None) -> Coroutine[Any, Any, Any]:
    return coroutine if soft_us is None else under_soft_limit(coroutine, soft_us)


def _text_of(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception as broken:  # noqa: BLE001 - the user's __str__ may raise anything
        text = f"(its __str__ raised {type(broken).__name__})"
    return _storable(text)[:ERROR_TEXT_MAX]


def _traceback_of(error: BaseException) -> str:
    # The first frames are ours and the event loop's; what the task did starts below. An error of ours has no others.
    below = trace = error.__traceback__
    frame = trace
    while frame is not None:
        if frame.tb_frame.f_code.co_filename == __file__:
            below = frame.tb_next
        frame = frame.tb_next
    while below is not None and below.tb_frame.f_code.co_filename == opened.__file__:
        below = below.tb_next
    below = below or trace
    try:
        text = "".join(traceback.format_exception(type(error), error, below))
    except Exception as broken:  # noqa: BLE001 - formatting calls the user's __str__ and __repr__
        text = f"(the traceback cannot be formatted: {type(broken).__name__})"
    return _storable(text)[-TRACEBACK_TEXT_MAX:]


def _storable(text: str) -> str:
    # Lone surrogates are legal in str, but not in UTF-8.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
