"""millstream as a program: frames through ``sequence_frames``, in batches."""

from __future__ import annotations

import gc

import polars as pl

import millstream as ms
from benchmarks.harness import Values
from benchmarks.sequence.contract import LOST, ORDERED, REPEATED, Job, answer, timed
from benchmarks.sequence.events import events

WAIT = "2s"
"""By the time of the events: twice as long as the most that an event is late."""
_WARM_UP_EVENTS = 20_000


def order(job: Job) -> Values:
    """Put all in order, look at what came out, and say how long it took."""
    _order(events(_WARM_UP_EVENTS, job.disorder, job.missing, job.repeated), job.batch_events)
    frame = events(job.events, job.disorder, job.missing, job.repeated)
    given: list[pl.DataFrame] = []
    gc.collect()
    values = timed(job, lambda: _order(frame, job.batch_events, given))
    check(pl.concat(given), frame)
    return values


def _order(
    frame: pl.DataFrame, batch_events: int, given: list[pl.DataFrame] | None = None
) -> Values:
    options = ms.SequenceOptions(wait=WAIT, start=0)
    sequencer = ms.sequence_frames(options, key="key", seq="seq", time="at")
    given = [] if given is None else given
    for first in range(0, frame.height, batch_events):
        given.append(sequencer.feed(frame[first : first + batch_events]).ordered)
    given.append(sequencer.end().ordered)
    counts = sequencer.counts
    return {ORDERED: counts.ordered, LOST: counts.lost, REPEATED: counts.duplicates}


def check(given: pl.DataFrame, fed: pl.DataFrame) -> None:
    """Raise RuntimeError unless each event is there once, and each key in order."""
    if not given.sort("key", "seq").equals(fed.unique().sort("key", "seq")):
        raise RuntimeError(f"{given.height} events came out, which are not those that went in")
    if not given.select((pl.col("seq").diff().over("key") > 0).fill_null(value=True).all()).item():
        raise RuntimeError("a key is not in order")


if __name__ == "__main__":
    answer(order)
