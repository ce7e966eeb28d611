"""The mark of a worker: what it says to others, what a damaged one says, and that a kill leaves it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from millstream.store.runmark import NOTHING, SEVERAL, RunMark, RunMarks

DIES_WITH = """
import os, signal, sys
from pathlib import Path
from millstream.store.runmark import RunMarks
mark = RunMarks(Path(sys.argv[1])).make(3, 15)
mark.begin(41)
mark.end()
mark.begin(42)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_others_read_what_runs(tmp_path: Path) -> None:
    marks = RunMarks(tmp_path)
    mark = marks.make(3, 15)
    assert marks.last_run(3).seq == NOTHING
    mark.begin(42)
    assert marks.last_run(3).seq == 42
    mark.begin(SEVERAL)
    assert marks.last_run(3).seq is None
    mark.end()
    assert marks.last_run(3).seq == NOTHING
    assert marks.leases() == {3}
    mark.retire()
    marks.remove(3)
    assert (marks.last_run(3).seq, marks.leases()) == (None, set())


def test_a_kill_leaves_what_ran(tmp_path: Path) -> None:
    command = [sys.executable, "-c", DIES_WITH, str(tmp_path)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert RunMarks(tmp_path).last_run(3).seq == 42


def test_a_file_that_is_no_mark_of_the_lease_says_nothing(tmp_path: Path) -> None:
    marks = RunMarks(tmp_path)
    assert (marks.last_run(1).seq, marks.leases()) == (None, set())
    mark = marks.make(1, 15)
    mark.begin(9)
    mark.close()
    whole = (tmp_path / "running" / "1").read_bytes()
    for lease, content in ((2, whole), (3, whole[:-1]), (4, bytes(len(whole))), (5, b"")):
        (tmp_path / "running" / str(lease)).write_bytes(content)
        assert marks.last_run(lease).seq is None
    (tmp_path / "running" / "notes").touch()
    assert marks.leases() == {1, 2, 3, 4, 5}


def test_a_mark_is_as_long_as_its_file_from_the_start(tmp_path: Path) -> None:
    # No holes: a store into one on a full disk would end the worker with SIGBUS.
    mark = RunMark.make(tmp_path, 1, 15)
    assert mark.path.stat().st_size == len(mark.path.read_bytes()) == 128
    mark.close()
