"""What a program that puts events in order gets and answers, ours included.

Each is run by itself, ``python -m <module> JOB``, with one thread. Its last line is JSON: ``{"values": {…}}``, or
``{"reason": "…"}`` when it cannot be measured here.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from benchmarks.harness import Unavailable, Values, reason_of
from benchmarks.programs import peak_resident_mib

RATE, WALL, PEAK = "events/s", "events/s by the clock", "peak"
ORDERED, LOST, REPEATED = "ordered", "lost", "repeated"


@dataclass(frozen=True, slots=True)
class Job:
    """So many events, and what befalls them: shares of 1."""

    events: int = 0
    disorder: float = 0.0
    missing: float = 0.0
    repeated: float = 0.0
    batch_events: int = 100_000


def command(module: str, job: Job) -> list[str]:
    """Return how to run a job: Polars with one thread."""
    python = [sys.executable, "-m", f"benchmarks.sequence.{module}", json.dumps(asdict(job))]
    return ["env", "POLARS_MAX_THREADS=1", *python]


def timed(job: Job, work: Callable[[], Values]) -> Values:
    """Do the work, and add how fast it was and how much memory the process took."""
    took, lasted = time.process_time(), time.perf_counter()
    found = work()
    took, lasted = time.process_time() - took, time.perf_counter() - lasted
    rates = {RATE: job.events / took, WALL: job.events / lasted}
    return {**found, **rates, PEAK: peak_resident_mib(os.getpid())}


def answer(work: Callable[[Job], Values]) -> None:
    """Do the job of the command line and print the answer."""
    job = Job(**json.loads(sys.argv[1]))
    try:
        said: dict[str, Values | str] = {"values": work(job)}
    except Unavailable as error:
        said = {"reason": reason_of(error)}
    print(json.dumps(said), flush=True)
