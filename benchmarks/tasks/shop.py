"""The app of this benchmark, as senders and workers of millstream import it."""

from __future__ import annotations

import os

import millstream as ms
from benchmarks.tasks import work
from benchmarks.tasks.contract import URL_VARIABLE

DURABILITY_VARIABLE = "BENCHMARK_DURABILITY"

app = ms.App(
    "bench",
    store=os.environ.get(URL_VARIABLE, "bench.mill"),
    durability=os.environ.get(DURABILITY_VARIABLE, "disk"),
)


@app.task
def no_op(a: int, b: int) -> int:
    """See ``work.no_op``."""
    return work.no_op(a, b)


@app.task
def spin(milliseconds: float) -> float:
    """See ``work.spin``."""
    return work.spin(milliseconds)
