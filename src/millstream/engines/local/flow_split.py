"""A flow that was streamed whole, in parts: each unit gets the places of its partitions and the state of its keys.

The partitioner of the topic says of each key where it belongs, so the state of a key comes to the unit that will read
its next event.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from millstream.engines.local.flow_catalog import Claim, Position
from millstream.engines.local.flow_state import Blob, StateChange, decoded, encoded
from millstream.flows.sharding import Sharding
from millstream.log.partitioner import NO_KEY, partitions_of
from millstream.primitives.errors import PlanError


@dataclass(frozen=True)
class Split:
    """What one unit begins with."""

    positions: Mapping[int, Position]
    """By the number of the partition, counted through the topics."""
    states: tuple[StateChange, ...]


def split(
    claim: Claim, places: Sequence[tuple[int, int]], sharding: Sharding, *, where: str
) -> list[Split]:
    """Return the part of each unit. Raises PlanError for state of a null key, StoreCorrupt for damaged state."""
    states: list[list[list[Blob]]] = [[[] for _ in sharding.keys] for _ in range(sharding.units)]
    for stage, key in enumerate(sharding.keys):
        for _, checksum, data in claim.state.get(stage, ()):
            frame = decoded(data, checksum, f"{where}, flow {claim.name!r}")
            # One after the other, as they were stored: of a key the last row may be the one that counts.
            for unit, part in _parts(frame, key, sharding.units, claim.name):
                states[unit][stage] += encoded(part)
    return [
        Split(
            {at: p for at, p in claim.positions.items() if places[at][1] == unit},
            tuple(StateChange(blobs=tuple(blobs)) for blobs in states[unit]),
        )
        for unit in range(sharding.units)
    ]


def _parts(frame: pl.DataFrame, key: str, units: int, flow: str) -> list[tuple[int, pl.DataFrame]]:
    homes = partitions_of(frame[key].to_arrow(), units)
    found = np.unique(homes)
    if NO_KEY in found:
        raise PlanError(
            "there is state of a null key, which belongs to no partition",
            where=f"flow {flow!r}, column {key!r}",
            expected="keys that are not null, in a flow that is shared",
            next_step="stream it with one process, or give the flow another name with .named(…) and filter them out",
        )
    if len(found) == 1:
        return [(int(found[0]), frame)]
    return [(int(unit), frame.filter(pl.Series(homes == unit))) for unit in found]
