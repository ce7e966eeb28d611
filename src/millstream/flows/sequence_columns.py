"""Which events of a batch pass at once, decided for all keys together: see ``sequence_frames.py``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

Integers: TypeAlias = npt.NDArray[np.int64]
Digests: TypeAlias = npt.NDArray[np.uint64]
Flags: TypeAlias = npt.NDArray[np.bool_]

FAR: Final = 2**60
"""Numbers and times up to here can be added and subtracted in 64 bits."""


@dataclass(frozen=True, slots=True)
class Groups:
    """Rows, key by key, each in the order of its arrival; at the end of each key those that wait already."""

    rows: Integers
    lengths: Integers
    starts: Integers
    owner: Integers
    """Which group each place belongs to."""
    place: Integers
    """The place of each row in its group."""


def groups_of(rows: Integers, lengths: Integers) -> Groups:
    """Return groups of rows: ``rows`` holds those of the first, then those of the second, and so on."""
    starts = np.cumsum(lengths) - lengths
    owner = np.repeat(np.arange(len(lengths)), lengths)
    return Groups(rows, lengths, starts, owner, np.arange(len(rows)) - starts[owner])


def with_waiting(groups: Groups, rows: Integers, owner: Integers) -> Groups:
    """Return the groups with rows that wait: those of group ``owner[i]`` begin with ``rows[i]``."""
    by_owner = np.argsort(np.concatenate([owner, groups.owner]), kind="stable")
    lengths = groups.lengths + np.bincount(owner, minlength=len(groups.lengths))
    return groups_of(np.concatenate([rows, groups.rows])[by_owner], lengths)


@dataclass(frozen=True, slots=True)
class Passing:
    """The rows of the groups, and which of them pass; these are in the order of their numbers."""

    rows: Integers
    passes: Flags


def passing(
    groups: Groups,
    ahead: Integers,
    clocks: Integers,
    *,
    may_pass: Flags,
    waits: Flags,
    ahead_max: int,
    behind_max: int,
    wait_us: int | None,
) -> Passing:
    """Return what passes.

    ``ahead``: how far each row's number is ahead of what its key awaits, in the order of ``groups.rows``. ``clocks``:
    when each row arrives, by row; of one that waits, the deadline of its key less the wait. ``may_pass``, ``waits``:
    which groups may pass, and which hold rows that wait. ``wait_us``: None for ever.
    """
    in_order = may_pass & ~waits & _all(groups, ahead == groups.place)
    passes = in_order[groups.owner]
    is_near = _all(groups, (ahead >= -behind_max) & (ahead <= ahead_max))
    places = np.flatnonzero((may_pass & ~in_order & is_near)[groups.owner])
    if not len(places):
        return Passing(groups.rows, passes)
    owner, width = groups.owner[places], ahead_max + behind_max + 1
    by_number = places[np.argsort(owner * width + ahead[places], kind="stable")]
    rows = groups.rows.copy()
    rows[places] = groups.rows[by_number]
    ahead = ahead[by_number]
    is_new_owner = np.ones(len(places), dtype=np.bool_)
    is_new_owner[1:] = owner[1:] != owner[:-1]
    counts = (ahead >= 0) & is_new_owner  # not behind, and no copy of the one before
    counts[1:] |= (ahead[1:] >= 0) & (ahead[1:] != ahead[:-1])
    ranks = np.cumsum(counts)
    before: Integers = (ranks - counts)[np.flatnonzero(is_new_owner)][np.cumsum(is_new_owner) - 1]
    follows_on = counts & (ahead == ranks - before - 1)
    # What is behind or comes twice is looked up by the machine, when its key has gone on: it has to be remembered.
    is_bad = ~counts & (groups.lengths[owner] - np.minimum(ahead, 0) > behind_max)
    if wait_us is not None:
        is_bad |= follows_on & _too_late(clocks[rows[places]], owner, wait_us)
    is_fine = np.ones(len(groups.lengths), dtype=np.bool_)
    is_fine[owner[is_bad]] = False
    passes[places] = follows_on & is_fine[owner]
    return Passing(rows, passes)


def _all(groups: Groups, holds: Flags) -> Flags:
    """Return for which groups it holds of all rows."""
    found: Flags = np.logical_and.reduceat(holds, groups.starts)
    return found


def _too_late(clocks: Integers, owner: Integers, wait_us: int) -> Flags:
    """Return which numbers come when the first greater one has waited for them too long.

    A gap opens when the first greater number arrives. The clock goes with the arrivals, so that is at the least clock
    of all greater ones. Clocks are made to ascend from group to group, so that one running least is enough for all.
    """
    span = int(clocks.max() - clocks.min()) + wait_us + 1
    if span * (int(owner[-1]) + 1) >= FAR:
        return np.ones(len(clocks), dtype=np.bool_)
    raised = clocks - clocks.min() + owner * span
    least = np.minimum.accumulate(raised[::-1])[::-1]
    found = np.zeros(len(raised), dtype=np.bool_)
    found[:-1] = raised[:-1] >= least[1:] + wait_us
    return found
