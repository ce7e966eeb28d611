"""Measures one system in a process of its own: all queries twice to warm up, then each for a while.

Its last line is JSON: ``{"values": {"q1": seconds, …, "memory": MiB}, "rows": {"q1": [[…], …], …}}``, or a reason.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.batch.contract import Ask, QuerySystem
from benchmarks.batch.own import Millstream
from benchmarks.batch.sql import QUERIES
from benchmarks.drivers import answer_of
from benchmarks.harness import OWN, Unavailable, reason_of
from benchmarks.programs import descendants, peak_resident_mib

MEMORY = "memory"
_WARM_UPS = 2
PEERS = ("polars", "duckdb", "dask", "pyspark")


@dataclass(frozen=True, slots=True)
class Job:
    """What to measure of one system."""

    system: str
    tables: str
    seconds: float
    timeout_s: float = 600.0


def drive(job: Job, directory: Path) -> dict[str, Any]:
    """Measure in a fresh process; return the values and the rows. Raises Unavailable."""
    command = [sys.executable, "-m", "benchmarks.batch.driver", json.dumps(asdict(job))]
    return answer_of([*command, str(directory)], timeout_s=job.timeout_s)


def system_named(name: str) -> QuerySystem:
    """Import only the system of this name. Raises Unavailable."""
    match name:
        case "polars":
            from benchmarks.batch.peers.polars_lazy import Polars

            return Polars()
        case "duckdb":
            from benchmarks.batch.peers.duckdb_sql import DuckDB

            return DuckDB()
        case "dask":
            from benchmarks.batch.peers.dask_frames import Dask

            return Dask()
        case "pyspark":
            from benchmarks.batch.peers.spark_sql import Spark

            return Spark()
    if name == OWN:
        return Millstream()
    raise Unavailable(f"there is no system {name!r}")


def measure(job: Job, directory: Path) -> Mapping[str, Any]:
    """Return the median time of each query, the peak of memory, and the answers."""
    with system_named(job.system).running(Path(job.tables), directory) as ask:
        for _ in range(_WARM_UPS):
            rows = {query: ask(query) for query in QUERIES}
        values = {query: _seconds(ask, query, job.seconds) for query in QUERIES}
        values[MEMORY] = _peak_mib()
    return {"values": values, "rows": rows}


def _peak_mib() -> float:
    """Return the peaks of this process and of all that live below it, added up."""
    peak = peak_resident_mib(os.getpid())
    for pid in descendants(os.getpid()):
        # Who has ended and was not waited for, such as a script that started others, has no memory.
        with suppress(Unavailable, FileNotFoundError, ProcessLookupError):
            peak += peak_resident_mib(pid)
    return peak


def _seconds(ask: Ask, query: str, seconds: float) -> float:
    gc.collect()
    times: list[float] = []
    while not times or sum(times) < seconds:
        began = time.perf_counter()
        ask(query)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def main(given: Sequence[str]) -> Mapping[str, Any]:
    """Measure what the command line says; return the answer."""
    try:
        return measure(Job(**json.loads(given[0])), Path(given[1]))
    except Exception as error:
        if json.loads(given[0])["system"] == OWN and not isinstance(error, Unavailable):
            raise
        # A peer may fail in any way; the reason goes into the notes.
        return {"reason": reason_of(error)}


if __name__ == "__main__":
    # Dates and the numbers of other libraries become text and floats.
    print(json.dumps(main(sys.argv[1:]), default=str))
