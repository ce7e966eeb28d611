"""The books of tasks: senders, workers and holders of schedules are killed at random, and afterwards the books balance.

Real processes of ``millstream worker`` with every pool share one store with processes that send tasks of every kind.
Each run of a task is a line in the ledger, outside the store. Which process is struck, how and when is drawn from the
seed; it happens after so many lines of the ledger, not after so much time.

Environment:
    MILLSTREAM_SEED          what is drawn: the number that the run's header printed.
    MILLSTREAM_LEDGER_TASKS  how many calls are sent at least.
    MILLSTREAM_LEDGER_KILLS  how many processes are killed at least.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest

from millstream.primitives.errors import UnknownTask
from millstream.tasks.limits import LISTED_TASKS_MAX
from millstream.tasks.message import TaskFilter
from millstream.tasks.states import TaskState
from tests.simulation import tasks_app, tasks_books
from tests.simulation.tasks_ledger import KILL, QUIT, STOP, Ledger, Line, Reader, Writer
from tests.simulation.tasks_sender import PER_SENDER

TASKS = int(os.environ.get("MILLSTREAM_LEDGER_TASKS", "3000"))
KILLS = int(os.environ.get("MILLSTREAM_LEDGER_KILLS", "30"))
LEASE = "2s"
SENDERS = 2
AHEAD = 400
"""Calls that are sent and have not run: senders wait when there are more."""
PATIENCE_S = 60.0
SILENCE_S = 3.0
"""A process that was stopped inside a commit keeps all others waiting: nobody says anything until it goes on."""
ROOT = Path(__file__).parents[2]
POOLS = (("process", 2), ("thread", 3), ("async", 6), ("solo", 1))


class Campaign:
    """The processes, what they said, and what was done to them."""

    def __init__(self, folder: Path, seed: int, report: Callable[[str], None]) -> None:
        self.random = Random(seed)
        self.ledger = Ledger()
        self.calls = self.runs = self.killed = self.stopped = self.ended = 0
        self._report = report
        self._seed = seed
        self._path = folder / "ledger"
        bell = self._path.with_suffix(".bell")
        os.mkfifo(bell)
        self._bell = os.open(bell, os.O_RDWR | os.O_NONBLOCK)
        self._reader = Reader(self._path)
        self._strikes = Writer(self._path)
        self._workers: dict[str, subprocess.Popen[bytes]] = {}
        self._senders: dict[int, subprocess.Popen[bytes]] = {}
        self._next = {source: (source + 1) * PER_SENDER for source in range(SENDERS)}
        self._frozen: dict[int, int] = {}
        """Stopped processes, and for how many more lines."""
        self._known: dict[int, str] = {}
        """Processes that have run a task, with their pool."""
        self._until_strike = 1

    # ---- processes ------------------------------------------------------------------------------

    def start_missing(self) -> None:
        """Start what is not there: a supervisor of each pool, and the senders."""
        for pool, concurrency in POOLS:
            if _is_missing(self._workers.get(pool)):
                command = [sys.executable, "-m", "millstream", "worker", "--lease", LEASE]
                command += ["-A", "tests.simulation.tasks_app", "--pool", pool]
                command += ["--concurrency", str(concurrency)]
                self._workers[pool] = self._start(command)
        for source in range(SENDERS):
            if _is_missing(self._senders.get(source)):
                command = [sys.executable, "-m", "tests.simulation.tasks_sender"]
                command += [f"{self._seed}-{self._next[source]}", str(self._next[source])]
                self._senders[source] = self._start(command)

    def _start(self, command: list[str]) -> subprocess.Popen[bytes]:
        durability = self.random.choice(("disk", "process"))
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "LEDGER_DURABILITY": durability},
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )

    def listen(self) -> bool:
        """Take in new lines; sleep until there are some. False when nobody said anything for a while."""
        select.select([self._bell], [], [], SILENCE_S)
        with contextlib.suppress(BlockingIOError):
            os.read(self._bell, 1 << 16)
        lines = self._reader.read()
        for line in lines:
            self._take(line)
        return bool(lines)

    def _take(self, line: Line) -> None:
        self.ledger.take(line)
        if line.word == "begin":
            self.calls += 1
            source = int(line.n) // PER_SENDER - 1
            self._next[source] = int(line.n) + 1
        elif line.word == "start":
            self.runs += 1
            self._until_strike -= 1
            self._known[line.process] = line.kind
            for process in list(self._frozen):
                self._frozen[process] -= 1
                if self._frozen[process] <= 0:
                    self._thaw(process)

    def let_send(self) -> None:
        """Let each sender send a batch, unless many calls wait already."""
        if self.calls >= TASKS or self.calls - len(self.ledger.runs) > AHEAD:
            return
        for sender in self._senders.values():
            with contextlib.suppress(BrokenPipeError):
                assert sender.stdin is not None
                sender.stdin.write(b".")

    # ---- strikes --------------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Whether enough was sent, and enough was killed."""
        return self.calls >= TASKS and self.killed >= KILLS

    def strike_when_due(self) -> None:
        """Strike once so many runs have begun that all strikes come to lie evenly over all calls."""
        if self._until_strike > 0 or self.killed >= KILLS:
            return
        self._until_strike = self.random.randint(1, max(2, TASKS // KILLS))
        strikes: dict[str, tuple[int, Callable[[], None]]] = {
            "a worker is killed": (12, self._kill_worker),
            "a worker is stopped": (6, self._stop_worker),
            "a sender is killed": (4, self._kill_sender),
            "a supervisor is killed": (2, self._kill_supervisor),
            "a supervisor is told to end": (2, lambda: self._end_supervisor(signal.SIGTERM)),
            "a supervisor is told to end at once": (
                3,
                lambda: self._end_supervisor(signal.SIGQUIT),
            ),
            "everybody is killed": (1, self._kill_everybody),
        }
        weights = [weight for weight, _ in strikes.values()]
        what = self.random.choices(list(strikes), weights)[0]
        strikes[what][1]()

    def _kill(self, process: int) -> None:
        self._frozen.pop(process, None)
        self._strikes.write("strike", 0, KILL, process=process)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
            self.killed += 1

    def _living(self) -> list[int]:
        """Return the processes that hold a lease, by the names that they gave themselves."""
        with tasks_app.app.tasks_engine.store.read() as snapshot:
            held = {int(row[2].rpartition(":")[2]) for row in snapshot.run("tasks/workers")}
        return sorted(process for process in held if _is_ours(process))

    def _kill_worker(self) -> None:
        if living := self._living():
            self._kill(self.random.choice(living))

    def _kill_everybody(self) -> None:
        everybody = [*self._workers.values(), *self._senders.values()]
        for process in [*self._living(), *(one.pid for one in everybody if one.poll() is None)]:
            self._kill(process)
        for one in everybody:
            one.wait(PATIENCE_S)

    def _kill_sender(self) -> None:
        sender = self._senders[self.random.randrange(SENDERS)]
        if sender.poll() is None:
            self._kill(sender.pid)
            sender.wait(PATIENCE_S)

    def _kill_supervisor(self) -> None:
        """Its children find the end of their pipe, finish what they run, and end."""
        worker = self._workers[self.random.choice(POOLS)[0]]
        if worker.poll() is None:
            self._kill(worker.pid)
            worker.wait(PATIENCE_S)

    def _end_supervisor(self, number: signal.Signals) -> None:
        worker = self._workers[self.random.choice(POOLS)[0]]
        if worker.poll() is not None:
            return
        if number is signal.SIGQUIT:
            self._strikes.write("strike", 0, QUIT, process=worker.pid)
        worker.send_signal(number)
        self.ended += 1

    def _stop_worker(self) -> None:
        if living := [one for one in self._living() if one not in self._frozen]:
            process = self.random.choice(living)
            with contextlib.suppress(ProcessLookupError):
                self._strikes.write("strike", 0, STOP, process=process)
                os.kill(process, signal.SIGSTOP)
                self._frozen[process] = self.random.choice((20, 400))
                self.stopped += 1

    def _thaw(self, process: int) -> None:
        self._frozen.pop(process, None)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGCONT)

    def thaw_all(self) -> None:
        """Let all go on that are stopped."""
        for process in list(self._frozen):
            self._thaw(process)

    # ---- the end --------------------------------------------------------------------------------

    def finish(self) -> None:
        """Let the senders end, wait until every task has ended, and end the workers in order."""
        self.thaw_all()
        for sender in self._senders.values():
            assert sender.stdin is not None
            sender.stdin.close()
            sender.wait(PATIENCE_S)
        for schedule in tasks_app.app.schedules.list():
            tasks_app.app.schedules.pause(schedule.name)
        engine = tasks_app.app.tasks_engine
        while left := self._left():
            for task_id in left:
                with contextlib.suppress(UnknownTask):  # It keeps no result.
                    engine.wait(task_id, PATIENCE_S)
        for worker in self._workers.values():
            worker.send_signal(signal.SIGTERM)
        for worker in self._workers.values():
            worker.wait(PATIENCE_S)
        self.listen()

    def _left(self) -> list[str]:
        """Return what has not ended."""
        waiting = [state for state in TaskState if not state.is_final]
        chosen = [TaskFilter(state=state) for state in waiting]
        control = tasks_app.app.tasks.control
        return [one for some in chosen for one in control.ids(some, tasks_max=LISTED_TASKS_MAX)]

    def close(self) -> None:
        """Leave no process behind."""
        self.thaw_all()
        for process in [*self._workers.values(), *self._senders.values()]:
            process.kill()
            _is_missing(process, patience_s=PATIENCE_S)
        for process in self._known:
            if _is_ours(process):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
        os.close(self._bell)


def _is_missing(process: subprocess.Popen[bytes] | None, *, patience_s: float = 0) -> bool:
    """Tell whether it has ended; let go of its pipe then."""
    if process is None:
        return True
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        return False
    assert process.stdin is not None
    process.stdin.close()
    return True


def _is_ours(process: int) -> bool:
    """Look at the command, so that a number that was given to another program is left alone."""
    try:
        return b"tests.simulation.tasks_app" in Path(f"/proc/{process}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


@contextmanager
def campaign(
    folder: Path, seed: int, monkeypatch: pytest.MonkeyPatch, report: Callable[[str], None]
) -> Iterator[Campaign]:
    store = folder / "ledger.mill"
    monkeypatch.setenv("LEDGER_STORE", str(store))
    monkeypatch.setenv("LEDGER_FILE", str(folder / "ledger"))
    tasks_app.app.store_path = str(store)
    run = Campaign(folder, seed, report)
    try:
        yield run
    finally:
        run.close()
        tasks_app.app.close()


@pytest.mark.timeout(120 + TASKS + 20 * KILLS)
def test_the_books_balance(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def report(text: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"[{text}] ")
            sys.stdout.flush()

    report(f"seed {seed}")
    with campaign(tmp_path, seed, monkeypatch, report) as run:
        while not run.is_over:
            run.start_missing()
            run.let_send()
            if not run.listen():
                run.thaw_all()
            run.strike_when_due()
        run.start_missing()
        run.finish()
        report(f"{run.calls} calls, {run.runs} runs, {run.killed} killed, {run.stopped} stopped")
        report(tasks_books.balance(run.ledger, tasks_app.app))
        depth = tasks_app.app.tasks_engine.depth()
        assert not [state for state in TaskState if depth[state] and not state.is_final], depth
