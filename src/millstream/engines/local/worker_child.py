"""One worker process, started by the supervisor; obeys the pipe that is its standard input, and signals.

    b"s", SIGTERM, SIGINT, end of the pipe    finish the running task, then end
    b"q", SIGQUIT, or any a second time       end now: what runs goes back, uncharged
    b"d"                                      tell from now on what waits and whether a task runs

The end of the pipe means that the supervisor is gone, however it died. Pipe and threads, not signals, carry the orders,
because they also work where there are no signals.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from queue import SimpleQueue
from types import FrameType
from typing import NoReturn, Protocol

from millstream.engines.local.worker_reports import Demand, Reporter
from millstream.primitives.telemetry import reach
from millstream.tasks.workers import Order, OrderKind

STOP = b"s"
QUICK = b"q"
DEMAND = b"d"
EXIT_ABANDONED = 3
EXIT_TERMINATED = 4
"""What a process exits with that ends for its task's sake, which was terminated or is over its time; the supervisor
starts another one at once."""

EXIT_RECYCLED = 5
"""What a process exits with that has run as many tasks as it may; the supervisor starts another one at once."""


class RunsTasks(Protocol):
    """What a worker process does, whatever its pool."""

    exit: Callable[[], None] | None
    on_order: Callable[[Order], None] | None

    def run(self) -> None:
        """Work until told to stop."""
        ...

    def stop(self) -> None:
        """Finish what runs. Any thread."""
        ...

    def abandon(self) -> None:
        """Hand back everything; the process ends next. Any thread."""
        ...

    def demand(self) -> Demand:
        """Return what waits for it and others, and whether it runs a task. Any thread."""
        ...


def run_child(
    worker: RunsTasks, *, control: int | None = 0, reporter: Reporter | None = None
) -> None:
    """Run the worker in the main thread until it is told to end; ``control`` is the descriptor of the pipe.

    Without a pipe and a ``reporter``, because there is no supervisor, only signals are obeyed.

    Returns after a graceful end; after a quick one the process exits with ``EXIT_ABANDONED``. Raises what
    the worker raises.
    """
    orders: SimpleQueue[bytes] = SimpleQueue()
    _hear_signals(orders)
    if control is not None:
        threading.Thread(
            target=_listen, args=(control, orders, worker, reporter), daemon=True
        ).start()
    threading.Thread(target=_obey, args=(worker, orders), daemon=True).start()
    worker.exit = lambda: _end_terminated(reporter)
    worker.on_order = _obedience(orders, reporter)
    try:
        worker.run()
    finally:
        if reporter is not None:
            reporter.close()  # Its looks need the store, which the caller closes next.


def _hear_signals(orders: SimpleQueue[bytes]) -> None:
    """Turn signals into orders."""

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        # Only a put, which is safe here: the interrupted thread may hold any lock.
        orders.put(STOP)

    def on_quit(_number: int, _frame: FrameType | None) -> None:
        orders.put(QUICK)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    if hasattr(signal, "SIGQUIT"):
        signal.signal(signal.SIGQUIT, on_quit)


def _end_terminated(reporter: Reporter | None) -> NoReturn:
    if reporter is not None:
        reporter.close()  # What was told must not be lost.
    os._exit(EXIT_TERMINATED)


def _obedience(orders: SimpleQueue[bytes], reporter: Reporter | None) -> Callable[[Order], None]:
    """Return what obeys an order to the node. With a supervisor it obeys, for all of its processes."""
    if reporter is not None:
        return reporter.tell
    asked: list[str] = []

    def obey(order: Order) -> None:
        if order.kind is OrderKind.SHUTDOWN and not asked:
            asked.append(order.id)  # A second one would be a quick stop, which nobody asked for.
            orders.put(STOP)

    return obey


def _listen(
    control: int, orders: SimpleQueue[bytes], worker: RunsTasks, reporter: Reporter | None
) -> None:
    tells = reporter is None
    while order := os.read(control, 1):
        if order != DEMAND:
            orders.put(order)
        elif reporter is not None and not tells:
            tells = True
            reporter.tell_regularly(worker.demand)
    orders.put(STOP)


def _obey(worker: RunsTasks, orders: SimpleQueue[bytes]) -> None:
    if orders.get() == STOP:
        worker.stop()
        reach("task.stopping")
        orders.get()
    try:
        worker.abandon()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(EXIT_ABANDONED)
