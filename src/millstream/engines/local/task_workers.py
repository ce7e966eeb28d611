"""``WorkerControl`` of one store: what workers tell of themselves, and what is asked of them.

An order is a row for each process of a node, in one commit that wakes them. Each tells its supervisor, which obeys the
first copy, and removes its own. A process that leaves takes its copies along, see ``LocalTasks.leave``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import msgspec

from millstream.engines.local.process_memory import resident_bytes
from millstream.primitives.errors import ConfigurationError, ResultTimeout
from millstream.primitives.identity import new_id
from millstream.primitives.telemetry import reach
from millstream.store.store import Store
from millstream.store.transaction import Snapshot, Transaction
from millstream.tasks.autoscale import PoolBounds
from millstream.tasks.limits import CHILDREN_MAX, RUNNING_TOLD_MAX
from millstream.tasks.message import Work
from millstream.tasks.workers import (
    Order,
    OrderKind,
    RunningTask,
    WorkerProfile,
    WorkerReport,
    WorkerStatus,
)

CHANNEL = "workers"
"""Wakes those who wait for a sign of life, or for the end of a worker."""
encode = msgspec.msgpack.Encoder().encode
_profile = msgspec.msgpack.Decoder(WorkerProfile).decode
_report = msgspec.msgpack.Decoder(WorkerReport).decode
_order = msgspec.msgpack.Decoder(Order).decode


def lease_channel(lease: int) -> str:
    """Return the channel that wakes a worker that is asked for something, or one of whose tasks was revoked."""
    return f"lease:{lease}"


def orders_of(snapshot: Snapshot, lease: int) -> list[Order]:
    """Return what is asked of a worker, the oldest first."""
    return [_order(content) for (content,) in snapshot.run("tasks/orders", (lease,))]


def report_of(
    running: Sequence[tuple[Work, int]], *, reserved: int, tally: tuple[int, int]
) -> WorkerReport:
    """Return what a worker says: what runs and since when, and how many attempts succeeded and raised."""
    tasks = [(task, since_us) for work, since_us in running for task in work]
    return WorkerReport(
        running=tuple(
            RunningTask(id=task.id, name=task.name, started_us=since_us)
            for task, since_us in tasks[:RUNNING_TOLD_MAX]
        ),
        running_count=len(tasks),
        reserved_count=reserved,
        succeeded=tally[0],
        raised=tally[1],
        memory_bytes=resident_bytes(),
    )


class LocalWorkers:
    """Any thread."""

    def __init__(self, store: Store) -> None:
        """Use an open store."""
        self._store = store

    def all(self, *, timeout_s: float | None = None) -> list[WorkerStatus]:
        """Return the worker processes that have not left. See ``WorkerControl``."""
        if timeout_s is None:
            return self._found()
        asked = {one.lease for one in self._found() if one.lives}
        order = Order(id=new_id(), kind=OrderKind.REPORT)
        self._give(order, asked)

        def is_answered() -> bool:
            with self._store.read() as snapshot:
                waiting = [one.id for lease in asked for one in orders_of(snapshot, lease)]
            return order.id not in waiting

        self._wait(is_answered, timeout_s)
        return self._found()

    def shutdown(
        self, nodes: Sequence[str] | None = None, *, timeout_s: float | None = None
    ) -> list[str]:
        """Let nodes finish what runs, and end. See ``WorkerControl``."""
        asked = self._ask(nodes, OrderKind.SHUTDOWN)
        if timeout_s is None or not asked:
            return asked

        def staying() -> list[str]:
            return sorted({one.node for one in self._found() if one.lives} & set(asked))

        if not self._wait(lambda: not staying(), timeout_s):
            raise ResultTimeout(
                f"after {timeout_s:g} s tasks still run in {', '.join(staying())}",
                where=str(self._store.path),
                expected="workers that have ended",
                next_step="wait longer: they end when their tasks have",
            )
        return asked

    def autoscale(self, most: int, fewest: int, nodes: Sequence[str] | None = None) -> list[str]:
        """Change the bounds of pools. See ``WorkerControl``."""
        bounds = PoolBounds(most, fewest)
        return self._ask(nodes, OrderKind.AUTOSCALE, bounds.most, bounds.fewest)

    def pool_grow(self, by: int = 1, nodes: Sequence[str] | None = None) -> list[str]:
        """Let pools have more processes."""
        return self._ask(nodes, OrderKind.POOL_GROW, _count(by))

    def pool_shrink(self, by: int = 1, nodes: Sequence[str] | None = None) -> list[str]:
        """Let pools have fewer processes."""
        return self._ask(nodes, OrderKind.POOL_SHRINK, _count(by))

    def _found(self) -> list[WorkerStatus]:
        with self._store.read() as snapshot:
            rows = snapshot.run("tasks/fleet")
        found = []
        for lease, process, worker, queues, joined_us, beaten_us, told, profile in rows:
            known = WorkerProfile() if profile is None else _profile(profile)
            found.append(
                WorkerStatus(
                    lease=lease,
                    node=known.node or worker,
                    worker=worker,
                    pool=known.pool,
                    concurrency=known.concurrency,
                    queues=tuple(json.loads(queues)),
                    tasks=known.tasks,
                    joined_us=joined_us,
                    told_us=beaten_us,
                    lives=self._store.is_alive(process),
                    report=WorkerReport() if told is None else _report(told),
                )
            )
        return found

    def _ask(
        self, nodes: Sequence[str] | None, kind: OrderKind, most: int = 0, fewest: int = 0
    ) -> list[str]:
        """Order something of nodes, of all or of none; return their names."""
        living = [one for one in self._found() if one.lives]
        there = {one.node for one in living}
        unknown = sorted(set(nodes or ()) - there)
        if unknown:
            raise ConfigurationError(
                f"there is no worker {', '.join(unknown)}",
                where=str(self._store.path),
                expected=", ".join(sorted(there)) or "a worker that runs",
                next_step="see `millstream inspect ping`",
            )
        meant = [one for one in living if nodes is None or one.node in nodes]
        unfit = [one for one in meant if one.pool != "process"]
        if kind is not OrderKind.SHUTDOWN and unfit:
            raise ConfigurationError(
                f"the pool of {unfit[0].node} cannot be resized: it has no processes",
                where=f"--pool {unfit[0].pool}",
                expected="workers with --pool process",
                next_step="name those, or start the worker anew with another --concurrency",
            )
        order = Order(id=new_id(), kind=kind, most=most, fewest=fewest)
        self._give(order, {one.lease for one in meant})
        return sorted({one.node for one in meant})

    def _give(self, order: Order, leases: set[int]) -> None:
        if not leases:
            return
        content = encode(order)

        def work(tx: Transaction) -> None:
            for lease in leases:
                params = {"id": order.id, "kind": order.kind, "content": content, "lease": lease}
                tx.run("tasks/give_order", params)
                tx.wake(lease_channel(lease))

        self._store.write(work)
        reach("worker.ordered")

    def _wait(self, is_done: Callable[[], bool], timeout_s: float) -> bool:
        """Sleep until it is done; False when the time is over."""
        clock = self._store.clock
        end_s = clock.monotonic_s() + timeout_s
        with self._store.waiter(CHANNEL) as waiter:
            while True:
                waiter.arm()
                if is_done():
                    return True
                left_s = end_s - clock.monotonic_s()
                if left_s <= 0:
                    return False
                waiter.wait(left_s)


def _count(by: int) -> int:
    if not 1 <= by <= CHILDREN_MAX:
        raise ConfigurationError(f"{by} processes", expected=f"1 to {CHILDREN_MAX}")
    return by
