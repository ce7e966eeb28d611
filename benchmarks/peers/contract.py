"""What a system must do to be measured as a log, ours included."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from benchmarks.harness import Unavailable

DISK = "disk"
PROCESS = "process"

Take: TypeAlias = Callable[[bytes], bool]
"""Gets the payload of an event; returns whether it wants more."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a system keeps its events in this run. Can be sent to another process."""

    directory: Path
    durability: str
    port: int = 0


class Client(Protocol):
    """A connection to a system. One thread, unless the system shares its clients."""

    def prepare(self, payloads: Sequence[bytes]) -> Any:
        """Return one batch in the form that the system takes; the clock does not run yet."""

    def append(self, prepared: Any) -> None:
        """Store the batch; return when it is acknowledged, with the durability of the place."""

    def read(self) -> int:
        """Read every event from the first on, and return how many there were."""

    def follow(self, take: Take) -> None:
        """Hand over every event from the first on, waiting for those to come, until ``take`` returns False."""

    def close(self) -> None:
        """Let go of it."""


class System(Protocol):
    """A way to keep events. Can be sent to another process."""

    @property
    def name(self) -> str:
        """How the table calls it."""

    @property
    def shares_client(self) -> bool:
        """Whether the threads of a process use one client; otherwise each has its own."""

    @property
    def cannot(self) -> Mapping[str, str]:
        """What it cannot do, and why: "disk", "process", "follow", "threads"."""

    def running(self, directory: Path, durability: str) -> AbstractContextManager[Place]:
        """Make it ready in an empty directory. Raises Unavailable."""

    def connect(self, place: Place) -> Client:
        """Return a client of what runs there."""


def installed(module: str, *, group: str = "bench") -> Any:
    """Import a peer. Raises Unavailable if it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise Unavailable(
            f"not installed: {error} (`make bench` installs requirements/{group}.txt)"
        ) from error


def require(system: System, *needs: str) -> None:
    """Raise Unavailable if the system cannot do one of these."""
    for need in needs:
        if need in system.cannot:
            raise Unavailable(system.cannot[need])
