"""How much memory a process takes for itself, as the kernel counts it.

Resident pages that no file backs: what the kernel cannot take back without ending somebody. Pages of mapped files,
such as segments of the store that were read, do not count, nor do processes that a task started. Linux tells it in
``/proc``; where there is none, limits on memory are refused.
"""

from __future__ import annotations

import os
from pathlib import Path

from millstream.primitives.errors import ConfigurationError

_PROC = Path("/proc")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0


def process_memory_bytes(process: int) -> int:
    """Return the memory of a process by its id, in bytes; 0 when there is no such process."""
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
