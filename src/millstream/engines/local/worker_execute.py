"""One attempt of one task: read the arguments, run the function, store what came of it as a completion."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Coroutine
from typing import Any

from millstream.primitives.clock import Clock
from millstream.primitives.errors import Replaced, Retry
from millstream.primitives.telemetry import reach
from millstream.tasks.bound import AttemptLink, BoundTask, bound_for
from millstream.tasks.limits import ERROR_TEXT_MAX, TRACEBACK_TEXT_MAX
from millstream.tasks.message import Claimed, Completion, Raised, Succeeded
from millstream.tasks.registry import TaskRegistry
from millstream.tasks.retry import (
    DEFAULT_POLICY,
    NO_RETRIES,
    Chance,
    RetryPolicy,
    TryAgain,
    after_failure,
)

RunCoroutine = Callable[[Coroutine[Any, Any, Any]], Any]


class Executor:
    """Runs attempts in the calling thread, one at a time."""

    def __init__(
        self,
        registry: TaskRegistry,
        *,
        clock: Clock,
        chance: Chance,
        run_coroutine: RunCoroutine,
        link: AttemptLink,
    ) -> None:
        """``chance`` spreads the retries; ``run_coroutine`` runs what an ``async def`` task returns.

        ``link`` is how tasks with ``bind=True`` reach the store.
        """
        self._link = link
        self._registry = registry
        self._clock = clock
        self._chance = chance
        self._run_coroutine = run_coroutine

    def run(self, claimed: Claimed) -> Completion:
        """Return how the attempt ended. Whatever the task raises becomes part of the completion."""
        started_us = self._clock.now_us()
        reach("task.started")
        policy, ttl_us = DEFAULT_POLICY, 0
        bound: BoundTask | None = None
        try:
            task = self._registry.get(claimed.name)
            policy, ttl_us = task.options.policy, task.options.result_ttl_us
            args, kwargs = task.arguments.decode(claimed.arguments)
            if task.bind:
                bound = bound_for(task, claimed, args=args, kwargs=kwargs, link=self._link)
                value = task.function(bound, *args, **kwargs)
            else:
                value = task.function(*args, **kwargs)
            if task.is_async:
                value = self._run_coroutine(value)
            result = task.returned.encode(value)
        except Replaced as replaced:
            ended_us = self._clock.now_us()
            reach("task.finished")
            return Succeeded(claimed, b"\xc0", ttl_us, started_us, ended_us, replaced.workflow)
        except BaseException as error:  # noqa: BLE001 - a task may raise anything, SystemExit too
            if bound is not None and bound.exhausted:
                policy = NO_RETRIES
            return self._raised(claimed, error, started_us, policy=policy)
        ended_us = self._clock.now_us()
        reach("task.finished")
        return Succeeded(claimed, result, ttl_us, started_us, ended_us)

    def _raised(
        self, claimed: Claimed, error: BaseException, started_us: int, *, policy: RetryPolicy
    ) -> Raised:
        failures = claimed.failures + 1
        verdict = after_failure(policy, failures=failures, error=error, chance=self._chance)
        ended_us = self._clock.now_us()
        if isinstance(error, Retry) and error.cause is not None:
            error = error.cause
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
        )


def _text_of(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception as broken:  # noqa: BLE001 - the user's __str__ may raise anything
        text = f"(its __str__ raised {type(broken).__name__})"
    return _storable(text)[:ERROR_TEXT_MAX]


def _traceback_of(error: BaseException) -> str:
    # The first frame is ours; what the task did starts below it. An error of ours has no other frame.
    trace = error.__traceback__
    below = trace.tb_next if trace is not None and trace.tb_next is not None else trace
    try:
        text = "".join(traceback.format_exception(type(error), error, below))
    except Exception as broken:  # noqa: BLE001 - formatting calls the user's __str__ and __repr__
        text = f"(the traceback cannot be formatted: {type(broken).__name__})"
    return _storable(text)[-TRACEBACK_TEXT_MAX:]


def _storable(text: str) -> str:
    # Lone surrogates are legal in str, but not in UTF-8.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
