"""What a worker process tells its supervisor: a line of JSON each, through a pipe of its own.

The supervisor imports no app and opens no store, so it knows of demand and of source files only what its processes
say. The other direction is the control pipe, see ``worker_child.py``.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue

import msgspec

from millstream.primitives.errors import MillstreamError
from millstream.tasks.limits import AUTOSCALE_LOOK_US
from millstream.tasks.workers import Order

_LOOK_S = AUTOSCALE_LOOK_US / 1_000_000


class Demand(msgspec.Struct, frozen=True, tag="demand"):
    """What waits for any process, and whether this one runs a task."""

    waiting: int
    is_busy: bool


class Sources(msgspec.Struct, frozen=True, tag="sources"):
    """The source files that this process has imported of its app, with their times of change in nanoseconds."""

    files: dict[str, int]


class Marked(msgspec.Struct, frozen=True, tag="marked"):
    """Where the mark of this process is, which says what it runs and that it lives: see ``store/runmark.py``."""

    path: str


Report = Demand | Sources | Order | Marked
_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Report] = msgspec.json.Decoder(Report)


class Reporter:
    """Tells the supervisor, from a thread of its own: a supervisor that is stopped must not stop a worker."""

    def __init__(self, descriptor: int) -> None:
        """Start the thread. ``descriptor`` is the writing end of the pipe."""
        # Processes that a task starts must not keep the pipe open.
        os.set_inheritable(descriptor, False)
        self._descriptor = descriptor
        self._writing = threading.Lock()
        self._reports: SimpleQueue[Report | None] = SimpleQueue()
        self._looks: list[Callable[[], Report | None]] = []
        self._thread = threading.Thread(target=self._run, name="millstream-reports", daemon=True)
        self._thread.start()

    def tell(self, report: Report) -> None:
        """Tell it soon. Any thread."""
        self._reports.put(report)

    def tell_now(self, report: Report) -> None:
        """Return when it is written: for what must be known before a task may hold the interpreter's lock for ever.

        Only for a few short reports: a supervisor that is stopped takes what the pipe holds, and no more.
        """
        with contextlib.suppress(BrokenPipeError):
            self._write(report)

    def tell_regularly(self, look: Callable[[], Report | None]) -> None:
        """Call ``look`` about once a second from now on, and tell what it returns. Any thread."""
        self._looks.append(look)
        with contextlib.suppress(MillstreamError):
            first = look()
            if first is not None:
                self._reports.put(first)

    def close(self) -> None:
        """Return when all that was told is written."""
        self._reports.put(None)
        self._thread.join()

    def _run(self) -> None:
        # A broken pipe means that the supervisor is gone: the control pipe says so too, and this process stops.
        with contextlib.suppress(BrokenPipeError):
            while True:
                try:
                    report = self._reports.get(timeout=_LOOK_S if self._looks else None)
                except Empty:
                    self._look()
                    continue
                if report is None:
                    return
                self._write(report)

    def _look(self) -> None:
        # A store that fails here fails in the worker's own thread too, which says so and ends.
        with contextlib.suppress(MillstreamError):
            for look in self._looks:
                report = look()
                if report is not None:
                    self._write(report)

    def _write(self, report: Report) -> None:
        line = memoryview(_encoder.encode(report) + b"\n")
        with self._writing:
            while line:
                line = line[os.write(self._descriptor, line) :]


def received(descriptor: int) -> Iterator[Report]:
    """Return the reports that come through the reading end of a pipe, until all writers have closed it."""
    with os.fdopen(descriptor, "rb") as pipe:
        for line in pipe:
            if not line.endswith(b"\n"):
                return  # The process was killed while it wrote.
            yield _decoder.decode(line)


def from_handle(handle: int) -> int:
    """Return the descriptor of what ``inherited`` handed over under this number."""
    if sys.platform == "win32":
        import msvcrt

        return msvcrt.open_osfhandle(handle, os.O_WRONLY)
    return handle
