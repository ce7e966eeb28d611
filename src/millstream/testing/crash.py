"""Processes that die at a named step, as if by ``kill -9``.

The library calls ``telemetry.reach("append.frame_written")`` between any two writes that a crash
may part. ``run`` starts a function in a process of its own, which kills itself the nth time it
reaches a step; what the function reported before (its acknowledgements) arrives in any case,
because it went through a pipe. ``steps_in`` finds all steps in the source.

Processes are forked from a small server that has imported what they need, so that each takes
milliseconds. The function and its arguments are pickled: a function of a module that can be
imported.
"""

from __future__ import annotations

import ast
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final

from millstream.primitives.telemetry import set_listener

Report = Callable[[object], None]
"""What the function is given to report with; returns when the report can no longer be lost."""
Scenario = Callable[..., None]
"""``scenario(report, *arguments)``."""

TIMEOUT_S: Final = 60.0
# pyarrow looks for pandas at the first array it makes; both that and Polars take longer than most scenarios.
_PRELOAD: Final = ("millstream.testing.crash", "millstream.engines.local.log", "pandas", "polars")
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(list(_PRELOAD))


@dataclass(slots=True)
class Outcome:
    """What is known of a process that ended."""

    reports: list[Any] = field(default_factory=list)
    steps: Counter[str] = field(default_factory=Counter)
    """How often each step was reached; only without ``kill_at``."""
    killed: bool = False
    error: str = ""
    """The traceback of an exception that ended the function."""


@dataclass(frozen=True, slots=True)
class KillAt:
    """The process dies at its ``occurrence``-th reach of ``step``."""

    step: str
    occurrence: int = 1


class Running:
    """A process that runs a scenario."""

    def __init__(self, process: BaseProcess, pipe: Connection) -> None:
        """Made by ``start``."""
        self._process = process
        self.pipe = pipe
        """Readable when there is a report: for ``multiprocessing.connection.wait``."""
        self.outcome = Outcome()

    @property
    def pid(self) -> int:
        """The process's number."""
        assert self._process.pid is not None
        return self._process.pid

    def signal(self, number: int) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def next_report(self, timeout_s: float = TIMEOUT_S) -> Any:  # noqa: ANN401 - whatever the scenario reports
        """Return the next report. Raises EOFError when the process ended, TimeoutError."""
        while self.pipe.poll(timeout_s):
            kind, value = self.pipe.recv()
            if kind == "report":
                self.outcome.reports.append(value)
                return value
            self._take(kind, value)
        raise TimeoutError(f"no report within {timeout_s} s")

    def wait(self, timeout_s: float = TIMEOUT_S) -> Outcome:
        """Read what it reports until it ends. Raises TimeoutError, and kills it then."""
        try:
            while True:
                self.next_report(timeout_s)
        except EOFError:
            self._process.join(timeout_s)
        except TimeoutError:
            self.kill()
            raise
        self.outcome.killed = self._process.exitcode == -signal.SIGKILL
        self.pipe.close()
        return self.outcome

    def _take(self, kind: str, value: Any) -> None:  # noqa: ANN401
        if kind == "steps":
            self.outcome.steps = value
        else:
            self.outcome.error = value

    def kill(self) -> None:
        """Kill it and wait until it is dead."""
        self._process.kill()
        self._process.join()


def start(scenario: Scenario, *arguments: Any, kill_at: KillAt | None = None) -> Running:  # noqa: ANN401
    """Start ``scenario(report, *arguments)`` in a process of its own."""
    ours, theirs = _context.Pipe(duplex=False)
    process = _context.Process(
        target=_run, args=(theirs, scenario, arguments, kill_at), daemon=True
    )
    process.start()
    theirs.close()
    return Running(process, ours)


def run(scenario: Scenario, *arguments: Any, kill_at: KillAt | None = None) -> Outcome:  # noqa: ANN401
    """Run ``scenario(report, *arguments)`` to its end, natural or not."""
    return start(scenario, *arguments, kill_at=kill_at).wait()


def _run(
    pipe: Connection, scenario: Scenario, arguments: Sequence[Any], kill_at: KillAt | None
) -> None:
    steps: Counter[str] = Counter()

    def listen(step: str) -> None:
        steps[step] += 1
        if kill_at is not None and step == kill_at.step and steps[step] == kill_at.occurrence:
            os.kill(os.getpid(), signal.SIGKILL)

    set_listener(listen)
    try:
        scenario(lambda value: pipe.send(("report", value)), *arguments)
    except BaseException:  # noqa: BLE001 - reported to the parent
        import traceback

        pipe.send(("error", traceback.format_exc()))
        raise SystemExit(1) from None
    finally:
        set_listener(None)
    pipe.send(("steps", steps))


def steps_in(*folders: Path) -> Iterator[tuple[str, Path]]:
    """Yield (step, file) for each ``reach("…")`` in the Python files of folders, or in single files."""
    for folder in folders:
        for path in sorted(folder.rglob("*.py")) if folder.is_dir() else [folder]:
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                step = _step_of(node)
                if step is not None:
                    yield step, path


def _step_of(node: ast.AST) -> str | None:
    if not isinstance(node, ast.Call) or not node.args:
        return None
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    first = node.args[0]
    if name != "reach" or not isinstance(first, ast.Constant):
        return None
    return str(first.value)
