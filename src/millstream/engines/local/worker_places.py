"""The places of a pool: each holds one worker process at a time, or waits to start the next one."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from millstream.engines.local.worker_reports import Report, received
from millstream.primitives.clock import Clock


@dataclass(frozen=True, slots=True)
class Exited:
    """A process has ended."""

    place: Place
    code: int


@dataclass(frozen=True, slots=True)
class Told:
    """A process has told something."""

    place: Place
    report: Report
    process: subprocess.Popen[bytes]
    """Which one: another may be in its place by now."""


@dataclass(slots=True, eq=False)
class Place:
    """One place. Used by the thread of the supervisor; two others wait for the process and for what it tells."""

    number: int
    process: subprocess.Popen[bytes] | None = None
    started_s: float = 0.0
    started_ns: int = 0
    deaths: int = 0
    start_at_s: float | None = None
    is_busy: bool = False
    is_leaving: bool = False
    """The place goes when its process has ended."""
    is_renewing: bool = False
    """The process was told to stop, so that a new one takes its place."""
    is_refused: bool = False
    """Its app could not be loaded; it starts again when a file has changed."""

    @property
    def is_needed(self) -> bool:
        """Tell whether a process runs, or will."""
        return self.process is not None or self.start_at_s is not None or self.is_refused

    def start(
        self, command: Sequence[str], clock: Clock, tell: Callable[[Exited | Told], None]
    ) -> None:
        """Start a process. ``tell`` is called from other threads with what comes from it."""
        self.start_at_s = None
        self.started_s = clock.monotonic_s()
        self.is_busy = self.is_renewing = self.is_refused = False
        reader, writer = os.pipe()
        self.started_ns = clock.now_us() * 1_000
        handle, inherited = _inherited(writer)
        # A session of its own: Ctrl-C in the terminal reaches the supervisor alone, which then tells the children.
        self.process = subprocess.Popen(
            [*command, "--reports", str(handle)],
            stdin=subprocess.PIPE,
            start_new_session=True,
            **inherited,
        )
        os.close(writer)
        for target, args in (
            (self._await_exit, (self.process, tell)),
            (self._await_reports, (self.process, reader, tell)),
        ):
            threading.Thread(target=target, args=args, daemon=True).start()

    def order(self, order: bytes) -> None:
        """Write an order into the control pipe."""
        if self.process is not None and self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # It has ended already.
                self.process.stdin.write(order)
                self.process.stdin.flush()

    def vacate(self) -> None:
        """Forget a process that has ended."""
        if self.process is not None and self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
        self.process = None
        self.is_busy = False

    def _await_exit(
        self, process: subprocess.Popen[bytes], tell: Callable[[Exited | Told], None]
    ) -> None:
        tell(Exited(self, process.wait()))

    def _await_reports(
        self,
        process: subprocess.Popen[bytes],
        reader: int,
        tell: Callable[[Exited | Told], None],
    ) -> None:
        for report in received(reader):
            tell(Told(self, report, process))


def _inherited(descriptor: int) -> tuple[int, dict[str, Any]]:
    """Return the number under which a child finds the descriptor, and what Popen needs to hand it over."""
    if sys.platform == "win32":
        import msvcrt

        handle = msvcrt.get_osfhandle(descriptor)
        os.set_handle_inheritable(handle, True)
        startup = subprocess.STARTUPINFO(lpAttributeList={"handle_list": [handle]})
        return handle, {"startupinfo": startup}
    return descriptor, {"pass_fds": (descriptor,)}
