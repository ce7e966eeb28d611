"""What an acknowledgement means."""

from __future__ import annotations

from enum import StrEnum

from millstream.primitives.errors import ConfigurationError


class Durability(StrEnum):
    """How much an acknowledged write survives."""

    DISK = "disk"
    """Survives a power loss: synced to the disk before it is acknowledged."""
    PROCESS = "process"
    """Survives ``kill -9`` of every process, but not a power loss."""


def durability_of(value: str | Durability) -> Durability:
    """Return the durability of that name, or raise ConfigurationError."""
    try:
        return Durability(value)
    except ValueError:
        raise ConfigurationError(
            f"{value!r} is not a durability",
            expected="'disk' or 'process'",
            next_step="leave it out for 'disk', which survives a power loss",
        ) from None
