"""The fourth seam of tasks: the workers that live, what they say of themselves, and what may be asked of them.

A *worker process* holds one lease. A *node* is what one ``millstream worker`` started: the processes of its pool.
Orders go to nodes, and are obeyed once, by the supervisor; what is asked of a process it answers itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import msgspec


class WorkerProfile(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker process says once, when it joins."""

    node: str = ""
    """The node it belongs to; empty means that it is one by itself."""
    pool: str = "solo"
    concurrency: int = 1
    """How many tasks the process runs at once."""
    tasks: tuple[str, ...] = ()
    """The names of the tasks that it knows."""


class RunningTask(msgspec.Struct, frozen=True, kw_only=True):
    """A task that runs in a worker process."""

    id: str
    name: str
    started_us: int


class WorkerReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker process says with each sign of life."""

    running: tuple[RunningTask, ...] = ()
    """What runs, at most ``RUNNING_TOLD_MAX``."""
    running_count: int = 0
    reserved_count: int = 0
    """Tasks that it holds and has not started."""
    succeeded: int = 0
    raised: int = 0
    """Attempts that it has ended since it was started."""
    memory_bytes: int | None = None
    """Physical memory of the process; None where the system does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatus:
    """One worker process, as the store knows it."""

    lease: int
    node: str
    worker: str
    """Host and process id, as in the attempts of tasks."""
    pool: str
    concurrency: int
    queues: tuple[str, ...]
    tasks: tuple[str, ...]
    joined_us: int
    told_us: int
    """Its last sign of life."""
    lives: bool
    """Whether its process exists: the kernel's word, now."""
    report: WorkerReport

    @property
    def host(self) -> str:
        """The name of its machine."""
        return self.worker.rpartition(":")[0]

    @property
    def pid(self) -> int:
        """The number of its process."""
        return int(self.worker.rpartition(":")[2])


class OrderKind(StrEnum):
    """What is asked of workers."""

    REPORT = "report"
    """Show a sign of life now."""
    SHUTDOWN = "shutdown"
    """Finish what runs, then end."""
    AUTOSCALE = "autoscale"
    """Have so many processes, at most and at least."""
    POOL_GROW = "pool_grow"
    POOL_SHRINK = "pool_shrink"


class Order(msgspec.Struct, frozen=True, kw_only=True, tag="order"):
    """Something that is asked of a node, or of a process. All copies of one have the same id."""

    id: str
    kind: OrderKind
    most: int = 0
    """The largest pool; of POOL_GROW and POOL_SHRINK how many processes more or fewer."""
    fewest: int = 0


class WorkerControl(Protocol):
    """Looks at workers and asks them for something, from any process that opens the store. Any thread."""

    def all(self, *, timeout_s: float | None = None) -> list[WorkerStatus]:
        """Return the worker processes that have not left, the oldest first.

        Without ``timeout_s`` as they last told, which is up to a third of their lease ago. With it each is asked to
        tell anew, and waited for up to so long; who answered has a ``told_us`` that is not older than the call.
        """
        ...

    def shutdown(
        self, nodes: Sequence[str] | None = None, *, timeout_s: float | None = None
    ) -> list[str]:
        """Let nodes (None: all) finish what runs, and end; return which were asked.

        With ``timeout_s`` wait until they have ended. Raises ConfigurationError for a node that is not there,
        ResultTimeout when they have not ended then; they end nevertheless.
        """
        ...

    def autoscale(self, most: int, fewest: int, nodes: Sequence[str] | None = None) -> list[str]:
        """Let pools of processes have between ``fewest`` and ``most`` from now on; return which nodes were asked.

        Equal numbers make a pool of a fixed size. Raises ConfigurationError for numbers that make no pool, for a node
        that is not there, and for one without a pool of processes; none is asked then.
        """
        ...

    def pool_grow(self, by: int = 1, nodes: Sequence[str] | None = None) -> list[str]:
        """Let pools have so many processes more, see ``autoscale``; both of its bounds move."""
        ...

    def pool_shrink(self, by: int = 1, nodes: Sequence[str] | None = None) -> list[str]:
        """Let pools have so many processes fewer, but one; each finishes what it runs."""
        ...
