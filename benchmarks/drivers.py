"""Drivers: fresh processes that measure one system each, so that no library bothers another.

The last line that a driver prints is JSON: what it found, or ``{"reason": "…"}`` when the system cannot run here.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Sequence
from typing import Any

from benchmarks.harness import ROOT, Unavailable, Values

_SAID_LENGTH = 120


def answer_of(command: Sequence[str], *, timeout_s: float) -> dict[str, Any]:
    """Run a driver and return its answer. Raises Unavailable with its reason, or when it takes longer."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=timeout_s)
    except BaseException as error:
        # The driver leads a group of its own: its servers and workers end with it.
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            raise Unavailable(f"not done within {timeout_s:.0f} s") from error
        raise
    return answer_in(output, errors)


def values_of(command: Sequence[str], *, timeout_s: float) -> Values:
    """Run a driver and return the values of its answer. Raises Unavailable like ``answer_of``."""
    values: Values = answer_of(command, timeout_s=timeout_s)["values"]
    return values


def answer_in(output: str, errors: str) -> dict[str, Any]:
    """Return what the last line of a driver says. Raises Unavailable with its reason."""
    lines = output.splitlines()
    try:
        answer: dict[str, Any] = json.loads(lines[-1])
    except (IndexError, json.JSONDecodeError) as error:
        said = " ".join(errors.split())[-_SAID_LENGTH:]
        raise RuntimeError(f"its driver ended without an answer: {said}") from error
    if "reason" in answer:
        raise Unavailable(answer["reason"])
    return answer
