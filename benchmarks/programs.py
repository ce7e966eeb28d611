"""Programs of other people: servers and workers, each on its own ports, watched and ended by process id.

Linux tells what a process and its descendants used: ``/proc``.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.harness import Unavailable

_END_TIMEOUT_S = 15.0
_LOG_TAIL = 160
# In /proc/PID/stat, counted after the name: user and system time, its own and that of children it waited for.
_FIRST_TIME = 11
_MIB = 2**20


@contextmanager
def programs(
    commands: Sequence[Sequence[str]],
    log: Path,
    *,
    environment: Mapping[str, str] | None = None,
    stop: signal.Signals = signal.SIGTERM,
) -> Iterator[list[int]]:
    """Run a program for each command until the block ends; yield their process ids.

    What they print goes to ``log``. At the end each gets ``stop``, and 15 s; who is left then is killed with all its
    descendants. Raises RuntimeError with the end of the log when one has ended before the block did.
    """
    running: list[subprocess.Popen[bytes]] = []
    try:
        with log.open("ab") as output:
            for command in commands:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **(environment or {})},
                )
                running.append(process)
        yield [process.pid for process in running]
        for process in running:
            if process.poll() is not None:
                raise RuntimeError(f"a program ended early: {tail(log)}")
    finally:
        for process in running:
            process.send_signal(stop)
        for process in running:
            _await_end(process)


def _await_end(process: subprocess.Popen[bytes]) -> None:
    family = descendants(process.pid)
    try:
        process.wait(_END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        for pid in [*family, process.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def tail(log: Path) -> str:
    """Return the end of a log, on one line."""
    try:
        text = " ".join(log.read_text(encoding="utf-8", errors="replace").split())
    except FileNotFoundError:
        return ""
    return text[-_LOG_TAIL:]


def free_port() -> int:
    """Return a port of this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def pause(seconds: float) -> None:
    """Let others run for a moment, where there is no signal to wait for: somebody else's program."""
    threading.Event().wait(seconds)


def until(condition: Callable[[], bool], *, timeout_s: float, every_s: float, what: str) -> None:
    """Look every now and then until it is so. Raises Unavailable after the timeout."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise Unavailable(f"{what}: not within {timeout_s:.0f} s")
        pause(every_s)


def descendants(pid: int) -> list[int]:
    """Return all processes that this one started, and those that they started."""
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text(encoding="ascii").split():
                found += [int(child), *descendants(int(child))]
    return found


def cpu_s(pids: Sequence[int]) -> float:
    """Return how long these processes, and their children that have ended, were on a processor, together.

    The system counts it in hundredths of a second. Who has ended meanwhile is left out.
    """
    ticks = 0
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError):
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2]
            ticks += sum(map(int, fields.split()[_FIRST_TIME : _FIRST_TIME + 4]))
    return ticks / os.sysconf("SC_CLK_TCK")


def peak_resident_mib(pid: int) -> float:
    """Return the most resident memory that a process ever had, shared pages included."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / _MIB
    raise Unavailable("this system does not tell the peak of resident memory")
