"""The fifth seam of tasks: a stream of what happens to them. Off until it is asked for, since each change costs a row.

An event is one row of the table of states (``states.py``) that came true: written in the transaction that changes the
task, by whoever changes it, so that none is missing and none is told of that did not happen.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import msgspec

from millstream.tasks.states import TaskState


class TaskChange(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A task went from one state to another."""

    seq: int
    """Numbers the changes of a store, in the order of their commits."""
    at_us: int
    id: str
    name: str
    queue: str
    before: TaskState | None
    """None: it was sent."""
    after: TaskState | None
    """None: it was purged while it waited."""
    attempt: int
    """The attempt that runs, is over, or comes next; 1 is the first."""
    worker: str | None
    """Host and process of the worker that holds or held it; None when none does, or it died."""
    missed: int = 0
    """Changes between the last one that this reader was given and this one, that are not kept any more."""


class TaskEvents(Protocol):
    """Turns the stream on and off, and follows it. Any thread; each iterator belongs to one."""

    @property
    def is_enabled(self) -> bool:
        """Whether changes are recorded."""
        ...

    def enable(self) -> bool:
        """Record changes from now on, of all processes, also after a restart; False when they were already."""
        ...

    def disable(self) -> bool:
        """Record no more; what was recorded is kept. False when nothing was recorded."""
        ...

    def follow(
        self, *, after: int | None = None, timeout_s: float | None = None
    ) -> Iterator[TaskChange]:
        """Return changes as they are committed; sleeps until one is.

        It begins behind the change number ``after`` (0: with the oldest that is kept), or with None behind the last one
        at the time of this call. It ends when there is no change for ``timeout_s``; None waits for ever, 0 only reads
        what is there. Raises ConfigurationError when changes are not recorded and would be waited for.
        """
        ...
