"""The ledger of tasks: one line for each thing that a process did, in a file outside the store.

A line is one ``write`` to a file that is open for appending: the kernel has it before the process does anything else,
and ``kill -9`` takes nothing back. Times are of the monotonic clock, which all processes of a machine share.

    task       kind n word id process parent monotonic_us wall_us      word: start, end, raise
    sender     kind n word id process parent monotonic_us extra        word: begin (before it is sent), sent (after)
    worker     worker 0 evicted - process parent monotonic_us 0        it found that its lease was lost
    campaign   strike 0 signal - process 0 monotonic_us 0              before a signal is sent
"""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from millstream.primitives.clock import SYSTEM_CLOCK

NOBODY = "-"
QUIT, KILL, STOP = "SIGQUIT", "SIGKILL", "SIGSTOP"
DELIVERY_US = 1_000_000
"""A signal is written into the ledger before it is sent, and the process may write a little until it arrives."""
_PARENT = os.getppid()
"""The supervisor, as long as it lived; the kernel would name another afterwards."""


def monotonic_us() -> int:
    """Return the time of the ledger."""
    return int(SYSTEM_CLOCK.monotonic_s() * 1_000_000)


@dataclass(frozen=True, slots=True)
class Line:
    """One line; ``n`` is the number that its sender gave to the call."""

    kind: str
    n: str
    word: str
    id: str
    process: int
    parent: int
    at_us: int
    extra: int

    @property
    def key(self) -> tuple[str, str]:
        """What was called: each sender has numbers of its own."""
        return self.kind, self.n


class Writer:
    """Appends lines, and rings the bell of whoever reads them. One process, any thread."""

    def __init__(self, path: Path) -> None:
        """Open the file; ``<path>.bell`` is a named pipe, if it is there."""
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        bell = path.with_suffix(".bell")
        self._bell = os.open(bell, os.O_RDWR | os.O_NONBLOCK) if bell.exists() else None

    def write(
        self,
        kind: str,
        n: object,
        word: str,
        task_id: str = NOBODY,
        *,
        process: int | None = None,
        extra: int = 0,
    ) -> None:
        """Write one line; it is safe from ``kill -9`` when this returns."""
        owner = os.getpid() if process is None else process
        line = f"{kind} {n} {word} {task_id} {owner} {_PARENT} {monotonic_us()} {extra}\n"
        os.write(self._file, line.encode())
        if self._bell is not None:
            with contextlib.suppress(BlockingIOError):  # Full: it rings already.
                os.write(self._bell, b".")

    @contextlib.contextmanager
    def run(self, kind: str, n: object, task_id: str = NOBODY) -> Iterator[None]:
        """Note the start and the end of one run of a task."""
        self.write(kind, n, "start", task_id, extra=SYSTEM_CLOCK.now_us())
        try:
            yield
        except BaseException:
            self.write(kind, n, "raise", task_id)
            raise
        self.write(kind, n, "end", task_id)


class Reader:
    """Reads what was appended since the last time."""

    def __init__(self, path: Path) -> None:
        """Nothing need be there yet."""
        self._path = path
        self._place = 0

    def read(self) -> list[Line]:
        """Return the new lines; one that is not complete yet comes the next time."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._place)
            whole, newline, _ = file.read().rpartition(b"\n")
        if not newline:
            return []
        self._place += len(whole) + 1
        return [_line(text) for text in whole.decode().splitlines()]


def _line(text: str) -> Line:
    kind, n, word, task_id, process, parent, at_us, extra = text.split(" ")
    return Line(kind, n, word, task_id, int(process), int(parent), int(at_us), int(extra))


@dataclass(slots=True)
class Run:
    """One run of a task: from its start to its end, or to what ended its process."""

    start: Line
    end: Line | None = None

    @property
    def raised(self) -> bool:
        """Whether the task itself ended it with an error."""
        return self.end is not None and self.end.word == "raise"


@dataclass
class Ledger:
    """All lines, in order."""

    begun: dict[tuple[str, str], Line] = field(default_factory=dict)
    sent: dict[tuple[str, str], Line] = field(default_factory=dict)
    runs: dict[tuple[str, str], list[Run]] = field(default_factory=lambda: defaultdict(list))
    strikes: dict[int, list[Line]] = field(default_factory=lambda: defaultdict(list))
    evictions: dict[int, list[Line]] = field(default_factory=lambda: defaultdict(list))
    last_us: dict[int, int] = field(default_factory=dict)
    """When each process wrote its last line."""

    def take(self, line: Line) -> None:
        """Enter a line."""
        if line.kind != "strike":
            self.last_us[line.process] = line.at_us
        if line.word == "begin":
            self.begun[line.key] = line
        elif line.word == "sent":
            self.sent[line.key] = line
        elif line.word == "start":
            self.runs[line.key].append(Run(line))
        elif line.word in {"end", "raise"}:
            own = [run for run in self.runs[line.key] if run.start.process == line.process]
            open_run = next(run for run in reversed(own) if run.end is None)
            open_run.end = line
        elif line.word == "evicted":
            self.evictions[line.process].append(line)
        else:
            self.strikes[line.process].append(line)

    def lost_lease_us(self, run: Run) -> int | None:
        """Return when it was known that the lease of a run had died, if it had: by a signal, or by its own finding.

        None means that its worker held the lease to the end: then nobody else may ever run the task again.
        """
        start = run.start
        own, above = self.strikes[start.process], self.strikes[start.parent]
        # A strike is written before it is given: a run may still begin until it arrives.
        ends = [max(one.at_us, start.at_us) for one in own if one.word == KILL]
        ends += [max(one.at_us, start.at_us) for one in (*own, *above) if one.word == QUIT]
        # One that was stopped for a lease is killed by its supervisor: it never writes a line again.
        stops = [one.at_us for one in own if one.word == STOP]
        if stops and self.last_us[start.process] < stops[-1] + DELIVERY_US:
            ends.append(max(stops[-1], start.at_us))
        return min([*ends, *self._evicted_us(run)], default=None)

    def _evicted_us(self, run: Run) -> list[int]:
        evictions = self.evictions[run.start.process]
        return [one.at_us for one in evictions if one.at_us >= run.start.at_us]

    def interval(self, run: Run) -> tuple[int, int]:
        """Return from when to when a run surely held its task; the death of its lease ends it early.

        One that was evicted cannot know since when: surely it held it until it was stopped.
        """
        start_us = run.start.at_us
        lost_us = self.lost_lease_us(run)
        if self._evicted_us(run):
            stops = [one.at_us for one in self.strikes[run.start.process] if one.word == STOP]
            lost_us = min([one for one in stops if one >= start_us], default=start_us)
        end_us = run.end.at_us if run.end is not None else lost_us
        assert end_us is not None, f"{run.start} has no end, and nothing happened to its process"
        return start_us, end_us if lost_us is None else min(end_us, lost_us)

    def verify_reruns(self, key: tuple[str, str]) -> int:
        """Look that each run but the last raised or lost its lease; return how many lost it."""
        runs = self.runs[key]
        lost = 0
        for run in runs[:-1]:
            if run.raised and self.lost_lease_us(run) is None:
                continue
            assert self.lost_lease_us(run) is not None, (
                f"{key} ran again although nothing happened to {run.start}: {runs}"
            )
            lost += 1
        return lost

    def verify_room(self, keys: list[tuple[str, str]], room: int) -> int:
        """Look that never more than ``room`` of these ran at once; return the most that did."""
        moments = []
        for key in keys:
            for run in self.runs[key]:
                start_us, end_us = self.interval(run)
                if end_us > start_us:
                    moments += [(start_us, 1, run), (end_us, -1, run)]
        inside: list[Run] = []
        most = 0
        for _, step, run in sorted(moments, key=lambda moment: moment[:2]):
            if step < 0:
                inside.remove(run)
                continue
            inside.append(run)
            most = max(most, len(inside))
            assert len(inside) <= room, f"more than {room} at once: {inside}"
        return most
