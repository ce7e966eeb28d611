"""Every error that millstream raises, in one tree.

    MillstreamError
    ├── ConfigurationError        a URL, option or duration that cannot be understood
    ├── DataError                 the caller's data does not fit; nothing was stored
    │   ├── SchemaError           a wrong type, a missing or an unknown column
    │   ├── EventTooLarge         one event is larger than a frame may be
    │   └── PayloadError          arguments or a result that cannot be stored
    │       └── TaskArgumentError arguments that do not fit the task's signature
    ├── StoreError                the directory and its files
    │   ├── NotAStore             the path exists, but holds something else
    │   ├── StoreVersionError     written by a newer millstream
    │   ├── StoreReadOnly         the directory cannot be written
    │   ├── StoreFull             no space left; nothing half-written
    │   ├── StoreCorrupt          a checksum or an invariant is broken
    │   ├── StoreStopped          a sync failed; this process must not write again
    │   ├── StoreBusy             another process held the write lock too long
    │   └── StoreClosed           used after close()
    ├── LogError
    │   ├── UnknownTopic
    │   ├── TopicExists           exists with another definition
    │   ├── OffsetOutOfRange      deleted by retention, or not written yet
    │   ├── Fenced                a newer producer, member or worker took over
    │   ├── OutOfOrderSequence    an idempotent producer skipped a number
    │   └── BufferFull            back-pressure did not end within its timeout
    ├── TaskError
    │   ├── UnknownTask
    │   ├── TaskFailed            raised by AsyncResult.get()
    │   ├── TaskRevoked           raised by AsyncResult.get(): revoked, or expired
    │   ├── ResultTimeout         no result within the timeout
    │   ├── SoftTimeLimitExceeded raised inside a task whose soft time limit is over
    │   ├── TimeLimitExceeded     what an attempt failed with whose hard time limit was over
    │   ├── MemoryLimitExceeded   what an attempt failed with whose process took too much memory
    │   ├── Replaced              raised by self.replace(): a workflow takes the task's place
    │   ├── Retry                 raised by self.retry(): the attempt ends, another follows
    │   ├── MaxRetriesExceeded    raised by self.retry() when no retry is left
    │   ├── Ignore                raised by a task that shall leave nothing behind
    │   └── Reject                raised by a task that shall not be tried again, or at once by another worker
    └── FlowError
        ├── PlanError             refused when the plan is built
        └── StepError             a step failed while it ran

An error says what happened, where, what was expected and what to try next, and carries these as fields.
"""

from __future__ import annotations


class MillstreamError(Exception):
    """Base of all errors of the library; catch it to catch them all."""

    def __init__(
        self, what: str, *, where: str = "", expected: str = "", next_step: str = ""
    ) -> None:
        """Keep the four facts as fields; ``str()`` joins those that are given."""
        super().__init__(what)
        self.what = what
        self.where = where
        self.expected = expected
        self.next_step = next_step

    def __str__(self) -> str:
        """Return the facts in one readable paragraph."""
        parts = [self.what]
        if self.where:
            parts.append(f"where: {self.where}")
        if self.expected:
            parts.append(f"expected: {self.expected}")
        if self.next_step:
            parts.append(f"next: {self.next_step}")
        return "; ".join(parts)

    def __reduce__(self) -> tuple[object, ...]:
        """Errors cross process borders with their fields."""
        return (_rebuild, (type(self), dict(self.__dict__), self.args))


def _rebuild(
    kind: type[MillstreamError], fields: dict[str, object], args: tuple[object, ...]
) -> MillstreamError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(fields)
    return error


class ConfigurationError(MillstreamError):
    """A URL, option or duration that cannot be understood."""


class DataError(MillstreamError):
    """The caller's data does not fit; nothing was stored."""


class SchemaError(DataError):
    """A wrong type, a missing column or an unknown one."""


class EventTooLarge(DataError):
    """One event is larger than a frame may be."""


class PayloadError(DataError):
    """Arguments or a result that cannot be stored."""


class TaskArgumentError(PayloadError):
    """Arguments that do not fit the signature of the task."""


class StoreError(MillstreamError):
    """Something about the store's directory or files."""


class NotAStore(StoreError):
    """The path exists, but holds something else."""


class StoreVersionError(StoreError):
    """The store was written by a newer millstream."""


class StoreReadOnly(StoreError):
    """The directory cannot be written."""


class StoreFull(StoreError):
    """No space left on the device; nothing was half-written."""


class StoreCorrupt(StoreError):
    """A checksum or an invariant is broken; the data was refused, not misread."""


class StoreStopped(StoreError):
    """A write or sync failed in a way that forbids this process to write again."""


class StoreBusy(StoreError):
    """Another process held the write lock for too long."""


class StoreClosed(StoreError):
    """The store was used after ``close()``."""


class LogError(MillstreamError):
    """Something about topics, producers and consumers."""


class UnknownTopic(LogError):
    """There is no such topic."""


class TopicExists(LogError):
    """The topic exists with another definition."""


class OffsetOutOfRange(LogError):
    """The offset was deleted by retention, or is not written yet."""


class Fenced(LogError):
    """A newer producer, group member or worker has taken over."""


class OutOfOrderSequence(LogError):
    """An idempotent producer skipped a sequence number."""


class BufferFull(LogError):
    """The producer's buffer stayed full for longer than its timeout."""


class TaskError(MillstreamError):
    """Something about tasks."""


class UnknownTask(TaskError):
    """No task of that name, or no message of that id."""


class TaskFailed(TaskError):
    """The task ended in failure; carries the error of its last attempt."""

    task_id: str = ""
    error_type: str = ""
    traceback: str = ""
    """The traceback of the worker, as text; empty when the worker died."""


class TaskRevoked(TaskError):
    """The task was revoked, or expired before it was started."""

    task_id: str = ""


class ResultTimeout(TaskError):
    """No result arrived within the timeout."""


class SoftTimeLimitExceeded(TaskError):
    """The soft time limit is over. Raised inside the task, once: it may catch it, clean up, and return."""

    def __init__(
        self,
        what: str = "the soft time limit of the task is over",
        *,
        where: str = "",
        expected: str = "",
        next_step: str = "",
    ) -> None:
        """Need no argument: whoever interrupts a thread can only name the class."""
        super().__init__(what, where=where, expected=expected, next_step=next_step)


class TimeLimitExceeded(TaskError):
    """The hard time limit was over, and the process of the task was ended. Never raised inside a task."""


class MemoryLimitExceeded(TaskError):
    """The process of the task took more memory than it may, and was ended. Never raised inside a task."""


class Retry(TaskError):
    """A task asks for another attempt. Raised by ``self.retry()``; catch it only to raise it again."""

    delay_us: int | None = None
    """How long to wait; None means by the backoff of the task."""
    cause: BaseException | None = None
    """The error that the attempt is recorded with."""
    arguments: bytes | None = None
    """The stored arguments of the attempts that follow; None leaves them as they are."""
    queue: str | None = None
    """Where it waits then; None leaves it in its queue."""
    priority: int | None = None
    """How urgent it is then."""


class Replaced(TaskError):
    """A workflow takes the place of a task. Raised by ``self.replace()``; catch it only to raise it again."""

    workflow: bytes = b""
    """Its stored form."""


class MaxRetriesExceeded(TaskError):
    """``self.retry()`` was called when no retry was left."""


class Ignore(TaskError):
    """Raise it in a task that shall end without a trace: it has succeeded, and neither result nor task is kept."""

    def __init__(
        self,
        what: str = "the task ends without a result",
        *,
        where: str = "",
        expected: str = "",
        next_step: str = "",
    ) -> None:
        """``what`` is for those who read the code, or call the function directly."""
        super().__init__(what, where=where, expected=expected, next_step=next_step)


class Reject(TaskError):
    """Raise it in a task that shall not be tried again, whatever its policy: it joins the dead set.

    With ``requeue`` it goes back to its queue at once instead, as one failed attempt more.
    """

    def __init__(
        self,
        what: str = "the task was rejected",
        *,
        requeue: bool = False,
        where: str = "",
        expected: str = "",
        next_step: str = "",
    ) -> None:
        """``what`` is kept as the error of the attempt."""
        super().__init__(what, where=where, expected=expected, next_step=next_step)
        self.requeue = requeue


class FlowError(MillstreamError):
    """Something about flows."""


class PlanError(FlowError):
    """The plan was refused when it was built."""


class StepError(FlowError):
    """A step failed while the flow ran."""
