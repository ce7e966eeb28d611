"""Who reads which partition: pure decisions about a consumer group.

A partition has an owner, who reads it now, and a target, who shall. ``assign`` chooses the targets; owners give up
what is not theirs any more when they have finished their batch, and the target takes it then (as in Kafka's cooperative
rebalancing, KIP-429). So nothing is read by two at once, and what need not move does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a group, as it is stored."""

    id: str
    process: str
    session_until_us: int


def assign(
    members: Sequence[str], partitions: Sequence[int], current: Mapping[int, str | None]
) -> dict[int, str | None]:
    """Return the target of each partition: balanced to one, and as few moves as that allows.

    ``members`` come in the order in which they joined; ``current`` is who has each partition now.
    """
    if not members:
        return dict.fromkeys(partitions)
    share, extra = divmod(len(partitions), len(members))
    kept: dict[str, list[int]] = {member: [] for member in members}
    free: list[int] = []
    for partition in partitions:
        holder = current.get(partition)
        if holder in kept and len(kept[holder]) < share + 1:
            kept[holder].append(partition)
        else:
            free.append(partition)
    # Members that hold most may keep the larger shares; everybody else gets the smaller one.
    by_load = sorted(members, key=lambda member: -len(kept[member]))
    quota = {member: share + (1 if i < extra else 0) for i, member in enumerate(by_load)}
    for member in members:
        while len(kept[member]) > quota[member]:
            free.append(kept[member].pop())
    free.sort()
    for member in members:
        while len(kept[member]) < quota[member]:
            kept[member].append(free.pop(0))
    return {partition: member for member in members for partition in kept[member]}


def departed(members: Sequence[Member], now_us: int, alive: Mapping[str, bool]) -> list[str]:
    """Return the members whose process died or whose session ended."""
    return [m.id for m in members if not alive[m.process] or m.session_until_us < now_us]
