"""A batch over many rows as a program: ``python -m benchmarks.batch.limited JOB``, with a limit of memory or without.

Its last line is JSON: how long the run took, and the peak of this process by then. The rows are checked afterwards.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import polars as pl

import millstream as ms
from benchmarks.programs import peak_resident_mib

GROUPS_FILE, GROUPS_TOPIC, ORDER_FILE = (
    "groups to a file",
    "groups to a topic",
    "an order to a file",
)
WORKS: Final = (GROUPS_FILE, GROUPS_TOPIC, ORDER_FILE)
PEAK, SECONDS = "peak", "seconds"


@dataclass(frozen=True, slots=True)
class Job:
    """What to do: one of ``WORKS`` over the files of a directory of numbers, in a directory of its own."""

    work: str
    numbers: str
    place: str
    rows: int
    memory: str | None = None


def run(job: Job) -> dict[str, float]:
    """Do it; return how long it took and the peak. Raises RuntimeError if the rows are wrong ones."""
    place = Path(job.place)
    target = "out" if job.work == GROUPS_TOPIC else str(place / "out.parquet")
    with ms.App("bench", store=place / "bench.mill", durability="process") as app:
        rows = app.read(f"{job.numbers}/*.parquet")
        if job.work == ORDER_FILE:
            flow = rows.sort("k")
        else:
            flow = rows.group_by("k").agg(v=ms.sum("v"), w=ms.max("w"), rows=ms.count())
        began = time.perf_counter()
        flow.write(target).run(memory=job.memory)
        told = {SECONDS: time.perf_counter() - began, PEAK: peak_resident_mib(os.getpid())}
        _check(job, app, target)
    return told


def _check(job: Job, app: ms.App, target: str) -> None:
    is_order = job.work == ORDER_FILE
    rows = ms.count() if is_order else ms.sum("rows")
    [sums] = app.read(target).agg(rows=rows, v=ms.sum("v")).collect().to_pylist()
    expected = {"rows": job.rows, "v": job.rows * (job.rows - 1) // 2}
    if sums != expected:
        raise RuntimeError(f"{job.work} gave {sums}, not {expected}")
    if is_order and not pl.read_parquet(target, columns=["k"])["k"].is_sorted():
        raise RuntimeError("the order is none")


if __name__ == "__main__":
    print(json.dumps({"values": run(Job(**json.loads(sys.argv[1])))}))
