"""A batch of a sequence of frames: its columns, its keys, and what passes at once. See ``sequence_frames.py``."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import polars as pl

from millstream.flows.sequence_columns import (
    FAR,
    Digests,
    Flags,
    Groups,
    Integers,
    Passing,
    passing,
    with_waiting,
)
from millstream.flows.sequence_key import Held, KeyedSequence
from millstream.flows.sequence_options import SequenceOptions
from millstream.flows.sequence_output import Key


@dataclass(frozen=True, slots=True)
class Batch:
    """The columns of a frame."""

    keys: pl.Series
    seqs: Integers
    times: Integers | None
    clocks: Integers
    """What the clock shows when a row is taken."""
    digests: Digests
    size: int
    """Of a row, on average."""


@dataclass(slots=True)
class Found:
    """The rows of a batch by key, and what of them passes. Rows that wait from before are among them, at the end."""

    batch: Batch
    keys: list[Key]
    states: list[KeyedSequence | None]
    groups: Groups
    clocks: list[int]
    """At the first event of each key."""
    nexts: Integers
    heard: Integers = field(init=False)
    """At the last event of each key."""
    digests: Digests = field(init=False)
    passing: Passing = field(init=False)
    _old: list[Held] = field(init=False)

    def decide(
        self, waiting: list[tuple[int, KeyedSequence]], may_pass: Flags, options: SequenceOptions
    ) -> bool:
        """Find out what passes; return False if some key could have more than may wait."""
        batch, groups = self.batch, self.groups
        self.heard = batch.clocks[groups.rows[groups.starts + groups.lengths - 1]]
        seqs, clocks, self.digests = batch.seqs, batch.clocks, batch.digests
        waits = np.zeros(len(self.keys), dtype=np.bool_)
        self._old = [held for _, state in waiting for held in state.buffer.values()]
        if self._old:
            owner = np.repeat(
                [at for at, _ in waiting], [len(state.buffer) for _, state in waiting]
            )
            waits[owner] = True
            rows = np.arange(len(self._old)) + len(seqs)
            groups = self.groups = with_waiting(groups, rows, owner)
            seqs = np.concatenate([seqs, [held.seq for held in self._old]])
            opened = [_opened_us(state, options) for _, state in waiting]
            clocks = np.concatenate(
                [clocks, np.repeat(opened, [len(s.buffer) for _, s in waiting])]
            )
            old_digests = np.array([held.digest for held in self._old], dtype=np.uint64)
            self.digests = np.concatenate([self.digests, old_digests])
        may_pass = may_pass & (groups.lengths <= options.max_events)
        if options.overflow == "block" and not may_pass.all():
            return False
        ahead, ahead_max = seqs[groups.rows] - self.nexts[groups.owner], options.max_dropout
        if options.modulo is not None:
            half = options.modulo // 2
            ahead = (ahead + half) % options.modulo - half
            ahead_max = min(ahead_max, options.modulo // 4)
            may_pass &= groups.lengths <= options.modulo // 4
        width = ahead_max + options.max_misorder + 1
        if width * len(self.keys) >= FAR:
            return False
        self.passing = passing(
            groups, ahead, clocks, may_pass=may_pass, waits=waits, ahead_max=ahead_max,
            behind_max=options.max_misorder, wait_us=None if options.gap == "hold" else options.wait_us,
        )  # fmt: skip
        return True

    def numbers(self, rows: Integers, base: int) -> Integers:
        """Return the numbers of rows over all batches."""
        count = len(self.batch.seqs)
        old = np.array([held.payload for held in self._old], dtype=np.int64)
        found = rows + base
        found[rows >= count] = old[rows[rows >= count] - count]
        return found


def _opened_us(state: KeyedSequence, options: SequenceOptions) -> int:
    """Return when a gap would have opened whose deadline is that of the key's first gap."""
    return (state.gaps[0].deadline_us or 0) - (options.wait_us or 0)
