"""When a stream gives the rows of a window: once it is closed, or before as well.

    events of 12:00 to 13:00          •   ••     •          •|
    "close"                                                  r     once, when nothing of it can come any more
    "update"                          r   r      r          r r    also after each micro-batch that changed the group
    ms.early("10m")                       r      r            r    also at most every ten minutes by the clock

Rows before the closing one are early: each is the aggregate of what had come of the group, and the next replaces it.
The column ``window_closed`` tells them apart. What the closing rows say does not depend on the emission, nor does it
on the clock: they are the rows of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from millstream.flows.windows import CountWindow, Sliding, Windows, exact_duration
from millstream.primitives.duration import Duration, duration_us
from millstream.primitives.errors import PlanError

WINDOW_CLOSED: Final = "window_closed"


@dataclass(frozen=True)
class Emission:
    """When rows are given. ``every_us`` is None for closed windows only, and 0 for each micro-batch."""

    every_us: int | None = None

    @property
    def is_early(self) -> bool:
        """Whether rows are also given while their window is open."""
        return self.every_us is not None

    def text(self) -> str:
        """Return the canonical text."""
        if self.every_us is None:
            return "close"
        return f"early({exact_duration(self.every_us)})" if self.every_us else "update"


ON_CLOSE: Final = Emission()
ON_UPDATE: Final = Emission(0)


def early(every: Duration) -> Emission:
    """Return the emission that shows open windows at most so often, by the clock, where something has changed.

    Raises PlanError unless ``every`` is positive.
    """
    every_us = duration_us(every)
    if every_us <= 0:
        raise PlanError(
            f"early({every!r})",
            expected="a positive duration",
            next_step='write for example ms.early("10s"), or emit="update" for each micro-batch',
        )
    return Emission(every_us)


def emission_of(emit: str | Emission, windows: Windows, *, where: str) -> Emission:
    """Return what ``emit`` says. Raises PlanError if that is nothing, or nothing that such windows can do."""
    named = {"close": ON_CLOSE, "update": ON_UPDATE}
    emission = emit if isinstance(emit, Emission) else named.get(str(emit))
    if emission is None:
        raise PlanError(
            f"window(…, emit={emit!r}) says nothing",
            where=where,
            expected='"close", "update" or ms.early("10s")',
            next_step="leave it out for the rows of closed windows alone",
        )
    if emission.is_early and isinstance(windows, Sliding | CountWindow):
        why = (
            "a window is known once it is complete"
            if isinstance(windows, CountWindow)
            else "each event would change those of all times behind it"
        )
        raise PlanError(
            f"{windows.text()} gives no early rows: {why}",
            where=where,
            expected='emit="close", or windows of another kind',
            next_step='write for example ms.hopping("10m", every="1m") to see a window grow',
        )
    return emission
