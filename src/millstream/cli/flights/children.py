"""Processes that the demo starts, and that never outlive it: they are ended by their process ids, whatever happens."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from millstream.cli.flights.stopping import stop_deferred

_PATIENCE_S = 5.0
_LAST_LINES = 3


@contextlib.contextmanager
def child(
    arguments: Sequence[str], *, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Start ``python -m …`` with a pipe for its output; what it says on standard error goes to ``log``.

    It has a session of its own, so that Ctrl-C in the terminal reaches the demo alone, which ends it here in order:
    asked first, asked again, and killed at last. When it ends by itself nothing is sent to it.
    """
    with contextlib.ExitStack() as stack:
        errors = stack.enter_context(log.open("ab"))
        with stop_deferred():
            # A stop between the start of the process and the taking note of it would leave it behind.
            process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
            stack.enter_context(process)
            stack.callback(_end, process)
        yield process


def _end(process: subprocess.Popen[str]) -> None:
    for stop in (process.terminate, process.terminate, process.kill):
        if process.poll() is not None:
            return
        stop()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE_S)


def last_words(log: Path) -> str:
    """Return the end of what a process said on standard error, for an error message."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
    return " | ".join([line for line in lines if line.strip()][-_LAST_LINES:]) or "it said nothing"
