"""``millstream demo`` as a person runs it: to its end, twice, and stopped in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

import pytest

from millstream.cli.flights.place import MARKER
from tests.integration.tasks_processes import ROOT

MARK = "MILLSTREAM_TEST_OF_DEMO"
STOPPED = 130
PATIENCE_S = 240.0

# Ten seconds on a quiet machine; a loaded one is no failure.
pytestmark = pytest.mark.timeout(2 * PATIENCE_S)


@contextmanager
def demo(folder: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Run the demo until the block ends. What it starts inherits a mark in its environment."""
    command = [sys.executable, "-m", "millstream", "demo", *options]
    environment = {
        **os.environ,
        MARK: str(folder),
        "TMPDIR": str(folder / "tmp"),
        "PYTHONPATH": str(ROOT / "src"),
    }
    (folder / "tmp").mkdir(exist_ok=True)
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def run(folder: Path, *options: str) -> str:
    with demo(folder, *options) as process:
        out, errors = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, errors) == (0, "")
    return out


def left_behind(folder: Path) -> list[str]:
    """Return the command of every process that carries our mark."""
    mark = f"{MARK}={folder}".encode()
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                marked = mark in (process / "environ").read_bytes().split(b"\0")
                command = (process / "cmdline").read_bytes()
            except OSError:  # It has ended, or it is not ours to look at.
                continue
            if marked and command:
                found.append(command.replace(b"\0", b" ").decode())
    return found


def test_the_demo_runs_to_its_end_and_again(tmp_path: Path) -> None:
    out = run(tmp_path, "--flights", "3000", "--workers", "1")
    for words in (
        "the first 3,000 departures",
        "each group, in a process of its own, counted what the file holds: 3,000 departures",
        "the stream's result equals the batch's, row for row",
        "with SIGKILL, when mail 100 had arrived",
        "every picture is there once: 48 of 48",
        "every mail arrived: 200 of 200 recipients; nothing is lost",
        "twice",
        "tasks, resize",
        str(tmp_path / "flights.mill"),
    ):
        assert words in out
    assert "\x1b" not in out, "colours and bars where nobody watches"
    assert left_behind(tmp_path) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "flights.mill",
        "flights.svg",
        "tmp",
    ]
    assert list((tmp_path / "tmp").iterdir()) == []
    ElementTree.parse(tmp_path / "flights.svg")
    check = subprocess.run(
        [sys.executable, "-m", "millstream", "check", "flights.mill"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Everything is as it was committed." in check.stdout, check.stdout + check.stderr
    with demo(tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("The store of an earlier demo was removed")


STOPS = [
    ("1  Log", 336_776, signal.SIGINT),
    ("2  Batch", 20_000, signal.SIGTERM),
    ("  sent ", 1_000, signal.SIGINT),
    ("  sent ", 1_000, signal.SIGHUP),
]


@pytest.mark.usefixtures("hangups")
@pytest.mark.parametrize(("words", "flights", "number"), STOPS)
def test_a_demo_that_is_stopped_leaves_no_process(
    tmp_path: Path, words: str, flights: int, number: signal.Signals
) -> None:
    with demo(tmp_path, "--flights", str(flights)) as process:
        assert process.stdout is not None
        assert any(words in line for line in process.stdout), "it ended before it came so far"
        process.send_signal(number)
        process.send_signal(number)  # A second one does not disturb the clearing up.
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == STOPPED
    assert errors.strip() == "Stopped. No process is left behind; the next run starts clean."
    assert left_behind(tmp_path) == []
    assert list((tmp_path / "tmp").iterdir()) == []
    assert (tmp_path / "flights.mill" / MARKER).is_file()


def test_a_directory_of_a_stranger_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").write_text("dear", encoding="utf-8")
    with demo(tmp_path, "--store", "mine") as process:
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2
    assert errors.startswith("ConfigurationError: the demo would have to remove 'mine'")
    assert (tmp_path / "mine" / "letter").read_text(encoding="utf-8") == "dear"
