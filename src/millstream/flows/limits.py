"""How much a stream takes at once, and a batch holds."""

from __future__ import annotations

from typing import Final

from millstream.primitives.errors import PlanError
from millstream.primitives.size import Size, size_bytes

BATCH_EVENTS: Final = 100_000
"""How many events a micro-batch takes at most unless ``stream`` is told otherwise."""

MEMORY_BYTES_MIN: Final = 16 * 2**20
"""The least limit of a batch: one piece of a frame for each core has to fit."""


def memory_bytes(memory: Size) -> int:
    """Return a limit of memory in bytes. Raises ConfigurationError for what is no size, PlanError for too little."""
    limit = size_bytes(memory)
    if limit < MEMORY_BYTES_MIN:
        raise PlanError(
            f"memory={memory!r}",
            where="run",
            expected="at least 16MiB",
            next_step='write for example memory="2GiB"',
        )
    return limit
