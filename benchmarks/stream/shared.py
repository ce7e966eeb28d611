"""Shared streams as a program: ``python -m benchmarks.stream.shared JOB``, to fill its log, then to stream it.

The workers are those of a user: ``millstream stream benchmarks.stream.shared:flow --workers N``. This module is theirs,
too: it finds its job in the environment, waits at the first look until all workers are there, and notes when the
process that imports it has committed for the first time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Final

import polars as pl

import millstream as ms
from benchmarks.harness import Values
from benchmarks.programs import until
from benchmarks.stream.contract import RATE, WINDOWS, Job, answer
from benchmarks.stream.events import PART_EVENTS, events
from benchmarks.stream.own import FILL
from millstream.primitives.telemetry import set_listener

PARTITIONS: Final = 8
JOB_VARIABLE: Final = "BENCHMARK_SHARED_JOB"
_ARRIVED, _BEGUN = "arrived", "begun"
_WAIT_S, _LOOK_S = 60.0, 0.001


def fill(job: Job) -> Values:
    """Append the events."""
    with _app(job) as app:
        topic = _topic(app)
        for first in range(0, job.events, PART_EVENTS):
            topic.append(events(first, min(PART_EVENTS, job.events - first), job.keys))
    return {}


def windows(job: Job) -> Values:
    """Let so many workers stream the log to its end; return how fast they were while all were at work."""
    _notes(job).mkdir()
    command = [sys.executable, "-m", "millstream", "stream", f"{__spec__.name}:flow"]
    command += ["--workers", str(job.workers), "--until-end"]
    done = subprocess.run(
        [*command, "--batch-events", str(job.batch_events)],
        env={**os.environ, JOB_VARIABLE: json.dumps(asdict(job))},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"the workers ended with {done.returncode}: {done.stderr[-200:]}")
    begun_us = [int(note.read_text()) for note in _notes(job).glob(f"{_BEGUN}-*")]
    if len(begun_us) != job.workers:
        raise RuntimeError(f"{len(begun_us)} of {job.workers} workers were at work")
    with _app(job) as app:
        published = _published(app, job)
        counted = published["hits"].sum()
        _check(app, job)
    if counted != job.events:
        raise RuntimeError(f"{counted:,} of {job.events:,} events were counted")
    return {RATE: rate_between(published, max(begun_us))}


def rate_between(published: pl.DataFrame, begun_us: int) -> float:
    """Return events a second of all partitions together, from ``begun_us`` until the first of them was through.

    ``published`` has a row for each partition and commit: ``partition, at_us, hits``. A window tells of its events when
    it closes, so each partition is counted behind its first commit up to its last one. The very last closed what was
    open at the end, and is no measure. Raises RuntimeError if a partition has too few commits.
    """
    commits = published.sort("at_us").group_by("partition", maintain_order=True)
    ended_us = min(int(of["at_us"][-2]) if of.height > 1 else 0 for _, of in commits)
    rate = 0.0
    for _, of in commits:
        seen = of.filter(pl.col("at_us").is_between(begun_us, ended_us))
        if seen.height < 2:
            raise RuntimeError("too few events: a partition was done before all workers were there")
        elapsed_us = int(seen["at_us"][-1]) - int(seen["at_us"][0])
        rate += int(seen["hits"][1:].sum()) / elapsed_us * 1e6
    return rate


def _published(app: ms.App, job: Job) -> pl.DataFrame:
    frames = [
        pl.DataFrame({"at_us": batch.appended_us(), "hits": batch.table["hits"].to_numpy()}).select(
            "at_us", "hits", partition=pl.lit(batch.partition)
        )
        for batch in _results(app, job).batches()
    ]
    return pl.concat(frames).group_by("partition", "at_us").agg(pl.col("hits").sum())


def _check(app: ms.App, job: Job) -> None:
    """Compare the results with those of a batch. Raises RuntimeError if they are others."""
    columns = ["window_start", "key", "hits", "total"]
    found, expected = (
        pl.DataFrame(table).select(columns).sort(columns)
        for table in (_results(app, job).to_table(), _counted(app).collect())
    )
    if not found.equals(expected):
        raise RuntimeError(f"{job.workers} workers gave {found.height:,} rows that no batch gives")


def flow() -> ms.Flow:
    """Return the flow of the job in the environment; what a worker imports."""
    job = Job(**json.loads(os.environ[JOB_VARIABLE]))
    app = _app(job)
    _results(app, job).ends()  # A topic is made when it is used first.
    set_listener(_Arrival(_notes(job), job.workers).reached)
    return _counted(app).named(f"flow_{job.result}").write(f"windows_{job.result}")


class _Arrival:
    """Holds a worker at its first look until all are there, and notes its first commit."""

    def __init__(self, notes: Path, workers: int) -> None:
        self._notes = notes
        self._workers = workers
        self._is_there = False

    def reached(self, step: str) -> None:
        """Hear of a step of the stream."""
        if step == "flow.shared" and not self._is_there:
            self._note(_ARRIVED)
            until(self._are_all_there, timeout_s=_WAIT_S, every_s=_LOOK_S, what="all workers")
            self._is_there = True
        elif step == "flow.committed":
            self._note(_BEGUN)
            set_listener(None)

    def _are_all_there(self) -> bool:
        return len(list(self._notes.glob(f"{_ARRIVED}-*"))) >= self._workers

    def _note(self, what: str) -> None:
        note = self._notes / f"{what}-{os.getpid()}"
        unfinished = self._notes / f"unfinished-{os.getpid()}"
        unfinished.write_text(str(time.time_ns() // 1000))
        unfinished.rename(note)


def _notes(job: Job) -> Path:
    return Path(job.place) / f"notes-{job.result}"


def _app(job: Job) -> ms.App:
    return ms.App("bench", store=Path(job.place) / "bench.mill", durability=job.topic_durability)


def _topic(app: ms.App) -> ms.Topic:
    schema = {"key": int, "value": int, "at": ms.Timestamp}
    return app.topic("events", schema=schema, key="key", partitions=PARTITIONS)


def _counted(app: ms.App) -> ms.Flow:
    windowed = app.read(_topic(app)).window(ms.tumbling("10s"), on="at", late="1s")
    return windowed.group_by("key").agg(hits=ms.count(), total=ms.sum("value"))


def _results(app: ms.App, job: Job) -> ms.Topic:
    """Return where the results go: each partition of the events has one of its own there."""
    name = f"windows_{job.result}"
    return app.topic(name, schema=_counted(app).schema, key="key", partitions=PARTITIONS)


if __name__ == "__main__":
    answer({FILL: fill, WINDOWS: windows})
