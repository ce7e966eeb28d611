"""``millstream stream --workers N``: N processes that share a flow, started again when one of them dies.

A process that ends with an error has said what is wrong, and would say it again: all are stopped then. One that was
killed is started again, later each time it dies early; what it had, the others have taken over by then.
"""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Sequence
from types import FrameType

import click

from millstream.engines.local.worker_supervisor import restart_delay_us
from millstream.primitives.clock import SystemClock
from millstream.tasks.limits import RESTART_FORGIVEN_US


class StreamWorkers:
    """The processes. Used once, from the main thread."""

    def __init__(self, command: Sequence[str], workers: int) -> None:
        """``command`` starts one of them; nothing is started yet."""
        self._command = list(command)
        self._workers = workers
        self._clock = SystemClock()
        self._lock = threading.Lock()
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._stopping = threading.Event()
        self._code = 0

    def run(self) -> int:
        """Run until all have ended, or SIGTERM or SIGINT came and all have stopped; return the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._end)
        threads = [
            threading.Thread(target=self._keep, args=(place,)) for place in range(self._workers)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return self._code

    def _end(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._stop(0)

    def _stop(self, code: int) -> None:
        """Ask all to stop behind their next commit."""
        self._code = self._code or code
        self._stopping.set()
        for process in list(self._running.values()):
            process.terminate()

    def _keep(self, place: int) -> None:
        """Run one process, again and again until it has ended by itself or all shall stop."""
        deaths = 0
        while (process := self._started(place)) is not None:
            started_s = self._clock.monotonic_s()
            code = process.wait()
            with self._lock:
                del self._running[place]
            if code >= 0 or self._stopping.is_set():
                if code > 0:
                    self._stop(code)
                return
            lived_us = (self._clock.monotonic_s() - started_s) * 1e6
            deaths = 1 if lived_us >= RESTART_FORGIVEN_US else deaths + 1
            delay_s = restart_delay_us(deaths) / 1e6
            click.echo(
                f"worker {place + 1} was ended by signal {-code}; starts again in {delay_s:g} s",
                err=True,
            )
            self._stopping.wait(delay_s)

    def _started(self, place: int) -> subprocess.Popen[bytes] | None:
        with self._lock:
            if self._stopping.is_set():
                return None
            process = self._running[place] = subprocess.Popen(self._command)
        if self._stopping.is_set():  # A signal came while it was started.
            process.terminate()
        return process
