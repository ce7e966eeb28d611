"""Named steps of the work that must survive a crash.

The code says ``reach("append.frame_written")`` between any two writes. Nothing happens then, unless a listener is set:
the crash tests set one that kills the process at a step, others count or trace.
"""

from __future__ import annotations

from collections.abc import Callable

StepListener = Callable[[str], None]

_listener: list[StepListener] = []


def reach(step: str) -> None:
    """Tell the listener, if there is one, that ``step`` is reached."""
    if _listener:
        _listener[0](step)


def set_listener(listener: StepListener | None) -> None:
    """Set the one listener of this process, or remove it with None."""
    _listener[:] = [] if listener is None else [listener]
