"""One worker process, started by the supervisor; obeys the pipe that is its standard input, and signals.

    b"s", SIGTERM, SIGINT, end of the pipe    finish the running task, then end
    b"q", or any of these a second time       end now: the running task goes back, uncharged

The end of the pipe means that the supervisor is gone, however it died. Pipe and threads, not signals, carry the orders,
because they also work where there are no signals.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from queue import SimpleQueue
from types import FrameType

from millstream.engines.local.worker import Worker

STOP = b"s"
QUICK = b"q"
EXIT_ABANDONED = 3
EXIT_TERMINATED = 4
"""What a process exits with whose task was revoked with ``terminate``; the supervisor starts another one."""


def run_child(worker: Worker, *, control: int = 0) -> None:
    """Run the worker in the main thread until it is told to end; ``control`` is the descriptor of the pipe.

    Returns after a graceful end; after a quick one the process exits with ``EXIT_ABANDONED``. Raises what
    ``Worker.run`` raises.
    """
    orders: SimpleQueue[bytes] = SimpleQueue()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        # Only a put, which is safe here: the interrupted thread may hold any lock.
        orders.put(STOP)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    for target, arguments in ((_listen, (control, orders)), (_obey, (worker, orders))):
        threading.Thread(target=target, args=arguments, daemon=True).start()
    worker.exit = lambda: os._exit(EXIT_TERMINATED)
    worker.run()


def _listen(control: int, orders: SimpleQueue[bytes]) -> None:
    while order := os.read(control, 1):
        orders.put(order)
    orders.put(STOP)


def _obey(worker: Worker, orders: SimpleQueue[bytes]) -> None:
    if orders.get() == STOP:
        worker.stop()
        orders.get()
    try:
        worker.abandon()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(EXIT_ABANDONED)
