"""Signals stop the demo at moments when nothing is half begun, and its children with it."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from millstream.cli.flights.children import child, last_words
from millstream.cli.flights.stopping import stop_deferred, stopped_by_signals

STOPS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.mark.usefixtures("hangups")
@pytest.mark.parametrize("number", STOPS)
def test_the_first_signal_interrupts_and_the_second_changes_nothing(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    reached = False
    with stopped_by_signals():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        signal.raise_signal(number)
        reached = True
    assert reached
    assert signal.getsignal(number) is before


def test_an_interruption_waits_for_the_end_of_what_must_not_be_cut() -> None:
    reached = []

    def work() -> None:
        with stop_deferred():
            signal.raise_signal(signal.SIGINT)
            reached.append("the end of the block")
        reached.append("what comes after it")

    with stopped_by_signals(), pytest.raises(KeyboardInterrupt):
        work()
    assert reached == ["the end of the block"]


def test_a_signal_that_was_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopped_by_signals():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_child_ends_with_its_block(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with child(["http.server", "0", "--bind", "127.0.0.1"], log=log) as process:
        assert process.poll() is None
    assert process.returncode == -signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)


def test_a_stop_while_a_child_starts_does_not_leave_it_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []

    class Interrupted(subprocess.Popen):
        def __init__(self, *args: object, **options: object) -> None:
            super().__init__(*args, **options)
            started.append(self.pid)
            signal.raise_signal(signal.SIGINT)  # Here the demo does not know the process yet.

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    with stopped_by_signals(), pytest.raises(KeyboardInterrupt):
        with child(["http.server", "0", "--bind", "127.0.0.1"], log=tmp_path / "log"):
            pytest.fail("the signal was lost")
    assert len(started) == 1
    with pytest.raises(ProcessLookupError):
        os.kill(started[0], 0)


def test_what_a_child_said_last_is_told(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert last_words(log) == "it said nothing"
    with child(["millstream.cli.flights.no_such_module"], log=log) as process:
        assert process.wait(60) == 1
    assert "no_such_module" in last_words(log)
