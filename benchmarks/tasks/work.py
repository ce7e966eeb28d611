"""What the tasks do, the same for every system, and the gate that all of them stand at until the clock starts.

The gate is a page that all worker processes map. While it is closed, whoever comes to a task waits before it, and
leaves the id of its process. So a queue can be filled while its workers are ready, and none has a head start; and
opening it is the moment from which a drain is counted. An open gate costs a task the reading of one byte.
"""

from __future__ import annotations

import mmap
import os
import threading
import time
from pathlib import Path

GATE_VARIABLE = "BENCHMARK_GATE"
_CLOSED, _OPEN = 1, 0
_LOOK_EVERY_S = 0.002
_PAGE_BYTES = 4096
_PID_BYTES = 8
_OWNER = slice(8, 8 + _PID_BYTES)


class Gate:
    """The gate at this path, as workers and the one who measures see it."""

    def __init__(self, path: Path) -> None:
        """Map the page; it is made, open, if it is missing."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if os.fstat(descriptor).st_size < _PAGE_BYTES:
                os.ftruncate(descriptor, _PAGE_BYTES)
            self._page = mmap.mmap(descriptor, _PAGE_BYTES)
        finally:
            os.close(descriptor)
        self._arrivals = path.with_suffix(".arrivals")

    @property
    def is_closed(self) -> bool:
        """Whether tasks have to wait."""
        return self._page[0] == _CLOSED

    def close(self) -> None:
        """Let nobody through as long as this process lives, and forget who came before."""
        self._arrivals.unlink(missing_ok=True)
        self._page[_OWNER] = os.getpid().to_bytes(_PID_BYTES, "little")
        self._page[0] = _CLOSED

    def open(self) -> None:
        """Let all through."""
        self._page[0] = _OPEN

    def wait(self) -> None:
        """In a worker: note that this process has come, and wait until the gate is open."""
        arrivals = os.open(self._arrivals, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(arrivals, os.getpid().to_bytes(_PID_BYTES, "little"))
        finally:
            os.close(arrivals)
        patience = threading.Event()
        while self.is_closed and self._has_owner():
            patience.wait(_LOOK_EVERY_S)

    def _has_owner(self) -> bool:
        # A worker must not wait for ever when whoever measured was killed.
        try:
            os.kill(int.from_bytes(self._page[_OWNER], "little"), 0)
        except ProcessLookupError:
            return False
        return True

    def arrived(self) -> int:
        """Return how many processes have come since it was closed."""
        try:
            noted = self._arrivals.read_bytes()
        except FileNotFoundError:
            return 0
        return len({noted[i : i + _PID_BYTES] for i in range(0, len(noted), _PID_BYTES)})


_gate: Gate | None = None


def _pass_gate() -> None:
    global _gate
    if _gate is None:
        _gate = Gate(Path(os.environ[GATE_VARIABLE]))
    if _gate.is_closed:
        _gate.wait()


def no_op(a: int, b: int) -> int:
    """Add: all that is measured is overhead."""
    _pass_gate()
    return a + b


def spin(milliseconds: float) -> float:
    """Compute for so long: time of the processor, not of the wall, so that it is the same work on a busy machine."""
    _pass_gate()
    end_ns = time.thread_time_ns() + int(milliseconds * 1e6)
    while time.thread_time_ns() < end_ns:
        pass
    return milliseconds
