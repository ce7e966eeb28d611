"""Tells the receivers of ``app.signals`` what happens to one attempt, in the thread that runs it."""

from __future__ import annotations

from collections.abc import Callable

from millstream.primitives.errors import Retry
from millstream.tasks.bound import Request
from millstream.tasks.message import Raised
from millstream.tasks.signals import (
    Signals,
    TaskFailure,
    TaskPostrun,
    TaskPrerun,
    TaskRetry,
    TaskRevoked,
    TaskSuccess,
)


class AttemptSignals:
    """One attempt. Made only when there are receivers."""

    def __init__(
        self, signals: Signals, request: Request, revoked: Callable[[], str | None]
    ) -> None:
        """``revoked`` returns why the task shall be revoked, if it shall."""
        self._signals = signals
        self._request = request
        self._revoked = revoked
        self._has_begun = False

    def begins(self) -> None:
        """Its function is called next."""
        self._has_begun = True
        self._signals.task_prerun.send(TaskPrerun(request=self._request))

    def returned(self, value: object, runtime_us: int) -> None:
        """Its function returned."""
        event = TaskSuccess(request=self._request, result=value, runtime_us=runtime_us)
        self._signals.task_success.send(event)
        self.is_over(runtime_us)

    def raised(self, error: BaseException, completion: Raised) -> None:
        """Its function raised, or could not be called; ``completion`` says what follows."""
        exception = error
        if isinstance(error, Retry) and error.cause is not None:
            exception = error.cause
        signals, request, reason = self._signals, self._request, self._revoked()
        if reason is not None:
            signals.task_revoked.send(TaskRevoked(request=request, reason=reason, terminated=False))
        elif completion.retry_delay_us is None:
            signals.task_failure.send(TaskFailure(request=request, exception=exception))
        else:
            signals.task_retry.send(
                TaskRetry(request=request, exception=exception, delay_us=completion.retry_delay_us)
            )
        self.is_over(completion.ended_us - completion.started_us)

    def is_over(self, runtime_us: int) -> None:
        """It has ended; if it had begun, that is told."""
        if not self._has_begun:
            return
        event = TaskPostrun(request=self._request, runtime_us=runtime_us)
        self._signals.task_postrun.send(event)
