"""Wake-ups: armed slots, channels, interruptions, limits."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from millstream.primitives.clock import SYSTEM_CLOCK
from millstream.primitives.errors import StoreBusy
from millstream.primitives.limits import WAIT_FALLBACK_S
from millstream.store import signals as module
from millstream.store.signals import MAP_BYTES, Signals, channel_bit
from tests.refusals import refused

SOON_S = 10.0


@pytest.fixture
def signals(tmp_path: Path) -> Iterator[Signals]:
    made = Signals(tmp_path, SYSTEM_CLOCK)
    yield made
    made.close()


def other_bit(channel: str) -> str:
    """Return another channel, which does not share its bit."""
    return next(name for name in map(str, range(100)) if channel_bit(name) != channel_bit(channel))


def test_an_armed_waiter_is_woken_and_an_unarmed_one_is_not(signals: Signals):
    with signals.waiter("a") as waiter:
        signals.wake(channel_bit("a"))
        assert not waiter.wait(0)
        waiter.arm()
        signals.wake(channel_bit("a"))
        assert waiter.wait(0)
        assert not waiter.wait(0)


def test_only_the_channels_of_a_waiter_wake_it(signals: Signals):
    with signals.waiter("a", "b") as waiter:
        waiter.arm()
        signals.wake(channel_bit(other_bit("a")) & ~channel_bit("b"))
        assert not waiter.wait(0)
        for channel in "ab":
            waiter.arm()
            signals.wake(channel_bit(channel))
            assert waiter.wait(0)


def test_one_wake_reaches_every_waiter(signals: Signals):
    waiters = [signals.waiter("a") for _ in range(20)]
    for waiter in waiters:
        waiter.arm()
    signals.wake(channel_bit("a"))
    assert all(waiter.wait(0) for waiter in waiters)
    for waiter in waiters:
        waiter.close()


def test_an_interruption_lasts(signals: Signals):
    with signals.waiter("a") as waiter, ThreadPoolExecutor(1) as other:
        waiter.arm()
        sleeping = other.submit(waiter.wait)
        waiter.interrupt()
        assert sleeping.result(SOON_S)
        assert waiter.wait()
        assert waiter.wait()


def test_a_waiter_is_not_closed_while_another_thread_wakes_it(
    signals: Signals, monkeypatch: pytest.MonkeyPatch
):
    # Its descriptor would be closed by then, or be that of another file.
    waiter, closed, write = signals.waiter("a"), threading.Event(), os.write

    def close() -> None:
        waiter.close()
        closed.set()

    with ThreadPoolExecutor(1) as other:

        def write_while_it_closes(descriptor: int, data: bytes) -> int:
            other.submit(close)
            assert not closed.wait(0.1)
            return write(descriptor, data)

        monkeypatch.setattr(os, "write", write_while_it_closes)
        waiter.interrupt()
        monkeypatch.undo()
        assert closed.wait(SOON_S)
        waiter.interrupt()
        waiter.nudge()


def test_a_sleep_ends_by_itself_after_a_while(signals: Signals):
    """A wake-up that was lost would cost this, and not for ever."""
    assert WAIT_FALLBACK_S == 1.0
    with signals.waiter("a") as waiter:
        waiter.arm()
        assert not waiter.wait(None)


def test_a_waiter_that_wakes_too_often_does_not_block_the_writer(signals: Signals):
    with signals.waiter("a") as waiter:
        for _ in range(100_000):  # more than the pipe holds
            waiter.arm()
            signals.wake(channel_bit("a"))
        assert waiter.wait(0)


def test_a_slot_is_free_again_when_its_waiter_is_closed(
    signals: Signals, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "WAITERS_MAX", 3)
    waiters = [signals.waiter("a") for _ in range(3)]
    with refused(StoreBusy, "3 places"):
        signals.waiter("a")
    waiters[1].close()
    waiters[1].close()
    signals.waiter("a").close()
    for waiter in waiters:
        waiter.close()


def test_a_waiter_that_died_armed_costs_one_failed_poke(signals: Signals, tmp_path: Path):
    other = Signals(tmp_path, SYSTEM_CLOCK)
    dead = other.waiter("a")
    dead.arm()
    # As the kernel does it for a process that is killed: the descriptor is closed, the slot stays armed.
    os.close(dead._descriptor)
    signals.wake(channel_bit("a"))
    signals.wake(channel_bit("a"))
    other.close()


def test_the_map_is_made_whole_when_it_is_short(tmp_path: Path):
    (tmp_path / "signals").write_bytes(b"MSSIGNL1")
    made = Signals(tmp_path, SYSTEM_CLOCK)
    assert (tmp_path / "signals").stat().st_size == MAP_BYTES
    made.close()


def test_without_fifos_a_waiter_looks_at_its_slot(
    signals: Signals, monkeypatch: pytest.MonkeyPatch
):
    """What Windows gets."""
    monkeypatch.setattr(module, "_HAS_FIFO", False)
    with signals.waiter("a") as waiter:
        waiter.arm()
        assert not waiter.wait(0)
        waiter.arm()
        signals.wake(channel_bit("a"))
        assert waiter.wait(SOON_S)
        waiter.arm()
        waiter.interrupt()
        assert waiter.wait(SOON_S)
