"""A heap for each key in plain Python: what people write first.

It has no clock, so it waits for ever for what is missing. It bounds nothing, knows no duplicates, and forgets all when
it is stopped.
"""

from __future__ import annotations

import gc
import heapq

import polars as pl

from benchmarks.harness import Unavailable, Values
from benchmarks.sequence.contract import LOST, ORDERED, REPEATED, Job, answer, timed
from benchmarks.sequence.events import events
from benchmarks.sequence.own import check

Row = tuple[int, int, int, int]


def order(job: Job) -> Values:
    """Put all in order, look at what came out, and say how long it took."""
    if job.missing or job.repeated:
        raise Unavailable("it waits for ever for what is missing, and gives what comes twice twice")
    frame = events(job.events, job.disorder, job.missing, job.repeated)
    line: list[Row] = list(frame.iter_rows())
    given: list[Row] = []
    gc.collect()
    values = timed(job, lambda: _order(line, given))
    check(pl.DataFrame(given, schema=frame.schema, orient="row"), frame)
    return values


def _order(line: list[Row], given: list[Row]) -> Values:
    nexts: dict[int, int] = {}
    heaps: dict[int, list[tuple[int, Row]]] = {}
    for row in line:
        key, seq = row[0], row[1]
        awaited = nexts.get(key, 0)
        if seq != awaited:
            heapq.heappush(heaps.setdefault(key, []), (seq, row))
            continue
        given.append(row)
        awaited += 1
        heap = heaps.get(key)
        while heap and heap[0][0] == awaited:
            given.append(heapq.heappop(heap)[1])
            awaited += 1
        nexts[key] = awaited
    return {ORDERED: len(given), LOST: 0, REPEATED: 0}


if __name__ == "__main__":
    answer(order)
