"""How much memory a process takes: all that is resident, and what it has for itself.

For itself are resident pages that no file backs: what the kernel cannot take back without ending somebody. Pages of
mapped files, such as segments of the store that were read, do not count, nor do processes that a task started. Linux
tells it in ``/proc``; where there is none, limits on memory are refused.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from millstream.primitives.errors import ConfigurationError

_PROC = Path("/proc")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0


def process_memory_bytes(process: int) -> int:
    """Return what a process has for itself, by its id, in bytes; 0 when there is no such process."""
    try:
        fields = (_PROC / str(process) / "statm").read_bytes().split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    resident, shared = int(fields[1]), int(fields[2])
    return max(0, resident - shared) * _PAGE_BYTES


def refuse_unreadable_memory(where: str) -> None:
    """Raise ConfigurationError where the memory of a process cannot be read."""
    if not (_PROC / "self" / "statm").exists():
        raise ConfigurationError(
            "the memory of a process cannot be read on this system",
            where=where,
            expected="Linux, or no limit on memory",
            next_step="limit it from outside, and recycle with --max-tasks-per-child",
        )


def resident_bytes() -> int | None:
    """Return the physical memory of this process; None where the system does not say.

    On Linux as it is now; elsewhere on Unix only the most that it ever was is to be had.
    """
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return _peak_bytes()
    return pages * os.sysconf("SC_PAGE_SIZE")


def _peak_bytes() -> int | None:
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
