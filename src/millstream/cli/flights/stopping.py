"""How the demo is stopped: the first signal raises KeyboardInterrupt, at a moment when nothing is half begun.

The handler runs in the main thread between any two of its instructions. Where a process has been started and is not
noted yet, ``stop_deferred`` puts the interruption off to the end of its block.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(slots=True)
class _Stop:
    deferred: bool = False
    asked: bool = False


_stop = _Stop()
"""One a process, as its signals are."""


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Within the block SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt; a second one changes nothing.

    A signal that is ignored stays so: whoever started us wants it, for example with nohup. For the main thread.
    """
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, _on_signal)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _stop.deferred = _stop.asked = False


@contextlib.contextmanager
def stop_deferred() -> Iterator[None]:
    """Put an interruption off to the end of the block."""
    _stop.deferred = True
    try:
        yield
    finally:
        _stop.deferred = False
    if _stop.asked:
        raise KeyboardInterrupt


def _on_signal(number: int, frame: FrameType | None) -> None:
    del number, frame
    if _stop.asked:
        return
    _stop.asked = True
    if not _stop.deferred:
        raise KeyboardInterrupt
