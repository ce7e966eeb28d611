"""Programs of other people: how they are started, watched and ended."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from benchmarks import programs as programs_module
from benchmarks.harness import Unavailable
from benchmarks.programs import (
    cpu_s,
    descendants,
    free_port,
    peak_resident_mib,
    programs,
    tail,
    until,
)

SPEAK = "import sys, signal; print('here', flush=True); signal.pause()"
# Starts a child that does not listen, and does not listen itself.
DEAF = (
    "import signal, subprocess, sys\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'])\n"
    "print('child', child.pid, flush=True)\n"
    "signal.pause()\n"
)


def await_log(log: Path, text: str) -> str:
    until(lambda: text in tail(log), timeout_s=60, every_s=0.01, what=f"the log says {text}")
    return tail(log)


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_programs_run_as_long_as_the_block(tmp_path: Path):
    log = tmp_path / "log"
    with programs([[sys.executable, "-c", SPEAK]] * 2, log) as pids:
        until(
            lambda: tail(log).count("here") == 2, timeout_s=60, every_s=0.01, what="both are there"
        )
        assert all(pid in descendants(os.getpid()) for pid in pids)
        assert cpu_s(pids) >= 0
        assert all(peak_resident_mib(pid) > 1 for pid in pids)
    assert not any(is_there(pid) for pid in pids)


def test_processor_time_holds_that_of_children_which_have_ended(tmp_path: Path):
    log = tmp_path / "log"
    burn = "import time\nwhile time.process_time() < 0.2: pass"
    code = (
        f"import signal, subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}]); "
        "print('here', flush=True); signal.pause()"
    )
    with programs([[sys.executable, "-c", code]], log) as pids:
        await_log(log, "here")
        assert cpu_s(pids) >= 0.1
    assert cpu_s(pids) == 0


def test_a_program_that_ends_early_tells_its_last_words(tmp_path: Path):
    log = tmp_path / "log"
    with (
        pytest.raises(RuntimeError, match="ended early: no such broker"),
        programs([[sys.executable, "-c", "raise SystemExit('no such broker')"]], log) as [pid],
    ):
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def test_who_does_not_listen_is_killed_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(programs_module, "_END_TIMEOUT_S", 0.1)
    log = tmp_path / "log"
    with programs([[sys.executable, "-c", DEAF]], log) as [pid]:
        child = int(await_log(log, "child").split()[1])
        assert descendants(pid) == [child]
    assert not is_there(pid)
    # An orphan is gone as soon as whoever adopted it has looked.
    until(lambda: state_of(child) in {"", "Z"}, timeout_s=60, every_s=0.01, what="the child ended")


def state_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def test_the_signal_to_stop_can_be_chosen(tmp_path: Path):
    log = tmp_path / "log"
    code = (
        "import signal\nsignal.signal(signal.SIGUSR1, lambda *_: print('asked', flush=True))\n"
        "print('here', flush=True)\nsignal.pause()"
    )
    with programs([[sys.executable, "-c", code]], log, stop=signal.SIGUSR1):
        await_log(log, "here")
    assert tail(log) == "here asked"


def test_a_free_port_can_be_listened_on():
    with socket.socket() as server:
        server.bind(("127.0.0.1", free_port()))


def test_waiting_has_an_end():
    looks = iter([False, False, True])
    until(lambda: next(looks), timeout_s=60, every_s=0, what="it happens")
    with pytest.raises(Unavailable, match="a server answers: not within 0 s"):
        until(lambda: False, timeout_s=0, every_s=0, what="a server answers")


def test_a_log_that_nobody_wrote_is_empty(tmp_path: Path):
    assert tail(tmp_path / "nothing") == ""
