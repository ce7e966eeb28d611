"""millstream as a program: single events through ``Sequencer``, whose payload is eight bytes."""

from __future__ import annotations

import gc

import millstream as ms
from benchmarks.harness import Values
from benchmarks.sequence.contract import LOST, ORDERED, REPEATED, Job, answer, timed
from benchmarks.sequence.events import events
from benchmarks.sequence.own import WAIT


def order(job: Job) -> Values:
    """Put all in order, and say how long it took."""
    frame = events(job.events, job.disorder, job.missing, job.repeated)
    line = [
        (key, seq, at, value.to_bytes(8, "little")) for key, seq, at, value in frame.iter_rows()
    ]
    gc.collect()
    return timed(job, lambda: _order(line, job.batch_events))


def _order(line: list[tuple[int, int, int, bytes]], batch_events: int) -> Values:
    sequencer = ms.Sequencer(ms.SequenceOptions(wait=WAIT, start=0))
    given = []
    for first in range(0, len(line), batch_events):
        given.append(sequencer.feed(line[first : first + batch_events]).ordered)
    given.append(sequencer.end().ordered)
    counts = sequencer.counts
    return {ORDERED: counts.ordered, LOST: counts.lost, REPEATED: counts.duplicates}


if __name__ == "__main__":
    answer(order)
