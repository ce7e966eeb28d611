"""The life of a task as one table.

Nothing changes the state of a task but by a row of ``TRANSITIONS``: the engine asks ``follow`` for the next state, and
the diagram in the docs is ``table()``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from millstream.primitives.errors import TaskError


class TaskState(StrEnum):
    """Where a task is in its life."""

    QUEUED = "queued"
    """Waits for a worker."""
    SCHEDULED = "scheduled"
    """Waits for its ETA."""
    BLOCKED = "blocked"
    """Waits for a lock, for room within a limit, or for others of its batch."""
    RUNNING = "running"
    """Held by a worker."""
    RETRYING = "retrying"
    """Failed, and waits for its next attempt."""
    SUCCEEDED = "succeeded"
    """Done; the result is stored."""
    FAILED = "failed"
    """Given up; kept with the error of every attempt."""
    REVOKED = "revoked"
    """Withdrawn, or not started before it expired."""

    @property
    def is_final(self) -> bool:
        """Tell whether the task has ended."""
        return self in FINAL


class TaskEvent(StrEnum):
    """What happens to a task."""

    ENQUEUE = "enqueue"
    SCHEDULE = "schedule"
    DUE = "due"
    CLAIM = "claim"
    SUCCEED = "succeed"
    RETRY = "retry"
    FAIL = "fail"
    HAND_BACK = "hand_back"
    RECOVER = "recover"
    ABANDON = "abandon"
    BLOCK = "block"
    OPEN = "open"
    REVOKE = "revoke"
    EXPIRE = "expire"
    REQUEUE = "requeue"


FINAL = frozenset({TaskState.SUCCEEDED, TaskState.FAILED, TaskState.REVOKED})
WAITING = (TaskState.QUEUED, TaskState.SCHEDULED, TaskState.BLOCKED, TaskState.RETRYING)
"""The states in which a task is in nobody's hands, and may still start."""


@dataclass(frozen=True, slots=True)
class Transition:
    """One row: in ``before``, ``event`` leads to ``after``, because of ``why``."""

    before: TaskState | None
    event: TaskEvent
    after: TaskState
    why: str


TRANSITIONS: tuple[Transition, ...] = (
    Transition(None, TaskEvent.ENQUEUE, TaskState.QUEUED, "it was sent"),
    Transition(None, TaskEvent.SCHEDULE, TaskState.SCHEDULED, "it was sent with an ETA to come"),
    Transition(TaskState.SCHEDULED, TaskEvent.DUE, TaskState.QUEUED, "its ETA has come"),
    Transition(TaskState.RETRYING, TaskEvent.DUE, TaskState.QUEUED, "its backoff is over"),
    Transition(TaskState.QUEUED, TaskEvent.CLAIM, TaskState.RUNNING, "a worker took it"),
    Transition(TaskState.RUNNING, TaskEvent.SUCCEED, TaskState.SUCCEEDED, "it returned"),
    Transition(
        TaskState.RUNNING, TaskEvent.RETRY, TaskState.RETRYING, "it raised; retries are left"
    ),
    Transition(TaskState.RUNNING, TaskEvent.FAIL, TaskState.FAILED, "it raised; no retry is left"),
    Transition(
        TaskState.RUNNING, TaskEvent.HAND_BACK, TaskState.QUEUED, "its worker did not start it"
    ),
    Transition(TaskState.RUNNING, TaskEvent.RECOVER, TaskState.QUEUED, "its worker died"),
    Transition(
        TaskState.RUNNING, TaskEvent.ABANDON, TaskState.FAILED, "its workers died too often"
    ),
    Transition(
        TaskState.QUEUED,
        TaskEvent.BLOCK,
        TaskState.BLOCKED,
        "its lock is taken, its limit used, or its batch small",
    ),
    Transition(
        TaskState.BLOCKED,
        TaskEvent.OPEN,
        TaskState.QUEUED,
        "there is room for it, or its batch has waited",
    ),
    *(Transition(s, TaskEvent.REVOKE, TaskState.REVOKED, "it was revoked") for s in WAITING),
    *(
        Transition(s, TaskEvent.EXPIRE, TaskState.REVOKED, "it expired before it was started")
        for s in WAITING
    ),
    Transition(
        TaskState.RUNNING, TaskEvent.REVOKE, TaskState.REVOKED, "it was revoked, and did not return"
    ),
    Transition(TaskState.FAILED, TaskEvent.REQUEUE, TaskState.QUEUED, "someone asked for it"),
    Transition(TaskState.REVOKED, TaskEvent.REQUEUE, TaskState.QUEUED, "someone asked for it"),
)

_AFTER = {(row.before, row.event): row.after for row in TRANSITIONS}


def follow(before: TaskState | None, event: TaskEvent) -> TaskState:
    """Return the state after ``event``. Raises TaskError when the table has no such row."""
    try:
        return _AFTER[before, event]
    except KeyError:
        raise TaskError(
            f"a task that is {before or 'new'} cannot {event}",
            expected=", ".join(sorted(row.event for row in TRANSITIONS if row.before == before)),
            next_step="report this: the engine broke the table of states",
        ) from None


def table() -> str:
    """Return the table as text, one transition a line."""
    head = ("state", "event", "next state", "because")
    rows = [head] + [(r.before or "(new)", r.event, r.after, r.why) for r in TRANSITIONS]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
