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
from typing import Protocol

from millstream.engines.local.worker_reports import Demand, Reporter
from millstream.primitives.telemetry import reach

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

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        # Only a put, which is safe here: the interrupted thread may hold any lock.
        orders.put(STOP)

    def on_quit(_number: int, _frame: FrameType | None) -> None:
        orders.put(QUICK)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    if hasattr(signal, "SIGQUIT"):
        signal.signal(signal.SIGQUIT, on_quit)
    if control is not None:

        def tell_demand() -> None:
            if reporter is not None:
                reporter.tell_regularly(worker.demand)

        threading.Thread(target=_listen, args=(control, orders, tell_demand), daemon=True).start()
    threading.Thread(target=_obey, args=(worker, orders), daemon=True).start()
    worker.exit = lambda: os._exit(EXIT_TERMINATED)
    try:
        worker.run()
    finally:
        if reporter is not None:
            reporter.close()  # Its looks need the store, which the caller closes next.


def _listen(control: int, orders: SimpleQueue[bytes], tell_demand: Callable[[], None]) -> None:
    while order := os.read(control, 1):
        if order == DEMAND:
            tell_demand()
        else:
            orders.put(order)
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
