"""What a program that is measured as a stream gets and answers, ours included.

Each is run by itself, ``python -m <module> JOB``, by the interpreter that has its packages: those of the peers
contradict each other. It does a little of the same work before its clock starts, and its last line is JSON:
``{"values": {…}}``, or ``{"reason": "…"}`` when it cannot be measured here. Only the standard library is imported here.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.harness import Unavailable, Values, reason_of
from benchmarks.programs import descendants, peak_resident_mib

WINDOWS, STATE, RELAY = "windows", "state", "relay"
TELL_EVERY = 100
"""``state`` tells of a key with each so many of its events."""
RATE, PEAK = "events/s", "peak"
WINDOW_US, LATE_US = 10_000_000, 1_000_000
PEERS_VARIABLE = "BENCHMARK_PEERS"
"""A folder with the environments of the peers, when it is not ``peers`` in the one that runs the benchmark."""


@dataclass(frozen=True, slots=True)
class Job:
    """One thing to do: count and sum by key and window, or by key in a function of Python, or pass single events on."""

    work: str
    place: str
    """A directory of its own: where it keeps what it has to keep."""
    source: str = ""
    """A directory of events: see ``events.py``."""
    result: str = ""
    """A directory for ``start_us, key, hits, total`` as Parquet, or as CSV without a header.

    For ``state`` the first column is how many events the key has had, too.
    """
    keys: str = ""
    events: int = 0
    batch_events: int = 0
    ports: tuple[int, int] = (0, 0)
    """Where lines come from, and where they go to."""
    topic_durability: str = "process"
    workers: int = 1
    """How many processes share it, where it is a flow of ours that is shared."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A program of ``benchmarks/stream/peers``."""

    name: str
    module: str
    environment: str | None = None
    """The name of its environment and of its lock file; None: the standard library and pyarrow do."""
    events: int = 4_000_000
    """How many events it gets at most, so that a round takes seconds."""
    relays: bool = True
    remembers: bool = False
    """Whether it can keep the state of a Python function by key, and does so here."""

    def python(self) -> str:
        """Return its interpreter. Raises Unavailable if it is not installed."""
        if self.environment is None:
            return sys.executable
        folder = Path(os.environ.get(PEERS_VARIABLE) or Path(sys.prefix) / "peers")
        python = folder / self.environment / "bin" / "python"
        if not python.exists():
            raise Unavailable(
                f"not installed (`make bench NAME=stream` installs requirements/{self.environment}.txt)"
            )
        return str(python)

    def command(self, job: Job) -> list[str]:
        """Return how to run a job. Raises Unavailable if it is not installed."""
        return [self.python(), "-m", f"benchmarks.stream.{self.module}", json.dumps(asdict(job))]


def answer(works: Mapping[str, Callable[[Job], Values]]) -> None:
    """Do the job of the command line and print the answer."""
    fields = json.loads(sys.argv[1])
    job = Job(**{**fields, "ports": tuple(fields["ports"])})
    try:
        if job.work not in works:
            raise Unavailable(f"there is no {job.work} of it")  # noqa: TRY301 - told like any other reason
        said: dict[str, Values | str] = {"values": works[job.work](job)}
    except Exception as error:  # noqa: BLE001 - a peer may fail in any way; the reason goes into the notes
        said = {"reason": reason_of(error)}
    print(json.dumps(said), flush=True)


def peak_mib() -> float:
    """Return the most resident memory of this process and of all that it has started and that still runs."""
    peak = peak_resident_mib(os.getpid())
    for pid in descendants(os.getpid()):
        with suppress(Unavailable, FileNotFoundError, ProcessLookupError):  # It is ending just now.
            peak += peak_resident_mib(pid)
    return peak
