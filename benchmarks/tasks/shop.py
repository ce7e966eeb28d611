"""The app of this benchmark, as senders and workers import it. Its task does next to nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import millstream as ms
from benchmarks.command import ROOT
from benchmarks.peers.contract import Place

STORE_VARIABLE = "BENCHMARK_STORE"
DURABILITY_VARIABLE = "BENCHMARK_DURABILITY"

app = ms.App(
    "bench",
    store=os.environ.get(STORE_VARIABLE, "bench.mill"),
    durability=os.environ.get(DURABILITY_VARIABLE, "disk"),
)


@app.task
def add(a: int, b: int) -> int:
    """Add: a task whose cost is all overhead."""
    return a + b


@contextmanager
def worker(place: Place) -> Iterator[None]:
    """Run ``millstream worker`` with one process until the block ends."""
    command = [sys.executable, "-m", "millstream", "worker", "-A", "benchmarks.tasks.shop:app"]
    environment = {
        **os.environ,
        STORE_VARIABLE: str(place.directory / "bench.mill"),
        DURABILITY_VARIABLE: place.durability,
    }
    process = subprocess.Popen(
        [*command, "--concurrency", "1"], cwd=ROOT, env=environment, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait()
