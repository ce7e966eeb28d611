"""Consumer groups in the catalog: members, who reads what, and how far they came.

There is no coordinator: whichever member looks first takes note of the dead, chooses new targets and wakes the
others, in one transaction. A commit of a position is refused unless the member still owns the partition in the epoch
in which it took it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from millstream.engines.local.topics import unknown_topic
from millstream.log.assignment import Member, assign, departed
from millstream.log.definition import TopicInfo
from millstream.primitives.durability import Durability
from millstream.primitives.errors import Fenced, StoreBusy
from millstream.primitives.identity import new_id
from millstream.primitives.limits import GROUP_MEMBERS_MAX
from millstream.primitives.telemetry import reach
from millstream.store import Snapshot, Store, Transaction


@dataclass(frozen=True, slots=True)
class Owned:
    """A partition that this member reads: its number, the epoch it was taken in, and where to go on."""

    partition: int
    epoch: int
    position: int | None


class Membership:
    """One member of a group. Used by one thread at a time."""

    def __init__(self, store: Store, info: TopicInfo, group: str, session_us: int) -> None:
        """Join the group."""
        self._store = store
        self._info = info
        self._number_of = {pid: number for number, pid in enumerate(info.partition_ids)}
        self.group = group
        self._session_us = session_us
        self.member_id = new_id(store.clock)
        self.group_id = store.write(self._join, durability=Durability.PROCESS)
        self.owned: dict[int, Owned] = {}
        self._generation: int | None = None
        """That of the group when this member last agreed with it."""

    @property
    def channel(self) -> str:
        """The channel that changes of the group wake."""
        return f"group:{self.group_id}"

    def _join(self, tx: Transaction) -> int:
        [[group_id, _]] = tx.run("log/group_open", (self.group, self._info.id))
        tx.many("log/group_partition_insert", [(group_id, p) for p in self._info.partition_ids])
        members = tx.run("log/members", (group_id,))
        if len(members) >= GROUP_MEMBERS_MAX:
            raise StoreBusy(
                f"the group has {len(members)} members",
                where=f"group {self.group!r} of topic {self._info.name!r}",
                expected=f"at most {GROUP_MEMBERS_MAX}",
                next_step="close consumers that are not needed",
            )
        self._insert_member(tx, group_id)
        self._rebalance(tx, group_id)
        reach("group.join_before_commit")
        return int(group_id)

    def _insert_member(self, tx: Transaction, group_id: int) -> None:
        until = tx.now_us + self._session_us
        tx.run(
            "log/member_insert", (self.member_id, group_id, self._store.process, until, tx.now_us)
        )

    def _rebalance(self, tx: Transaction, group_id: int) -> None:
        members = [row[0] for row in tx.run("log/members", (group_id,))]
        rows = tx.run("log/group_partitions", (group_id,))
        # A partition is counted where it shall be, so that one rebalance does not undo the last.
        current = {row[0]: row[3] if row[3] in members else row[2] for row in rows}
        targets = assign(members, [row[0] for row in rows], current)
        for partition_id, _, _, target, _ in rows:
            if targets[partition_id] != target:
                tx.run(
                    "log/group_partition_target", (targets[partition_id], group_id, partition_id)
                )
        tell_group(tx, group_id)
        reach("group.rebalance_before_commit")

    def is_settled(self) -> bool:
        """Tell whether the group is as this member last saw it: one row, where ``reconcile`` reads all of them.

        A member that died changes nothing before somebody looks for it.
        """
        with self._store.read() as snapshot:
            return self._generation_of(snapshot) == self._generation is not None

    def _generation_of(self, snapshot: Snapshot) -> int | None:
        found = snapshot.run("log/group_get", (self.group_id,))
        return found[0][0] if found else None

    def reconcile(self, start: Mapping[int, int]) -> bool:
        """Give up and take partitions as the group wants it; return whether anything changed.

        Reads only, unless there is something to do. ``start`` is where each partition begins that the group never read.
        Raises UnknownTopic if the topic was deleted.
        """
        with self._store.read() as snapshot:
            if not self._has_work(snapshot):
                self._generation = self._generation_of(snapshot)
                return False
        owned = self._store.write(
            lambda tx: self._reconcile(tx, start), durability=Durability.PROCESS
        )
        self._generation = None
        reach("group.reconciled")
        changed = owned.keys() != self.owned.keys() or any(
            owned[p].epoch != self.owned[p].epoch for p in owned
        )
        self.owned = owned
        return changed

    def _has_work(self, snapshot: Snapshot) -> bool:
        members = self._members(snapshot)
        if self.member_id not in {m.id for m in members} or self._departed(members):
            return True
        for partition_id, _, owner, target, epoch in snapshot.run(
            "log/group_partitions", (self.group_id,)
        ):
            number = self._number_of[partition_id]
            mine = self.owned.get(number)
            if (owner == self.member_id) != (mine is not None):
                return True
            if mine is not None and (mine.epoch != epoch or target != self.member_id):
                return True
            if target == self.member_id and owner is None:
                return True
        return False

    def _members(self, snapshot: Snapshot) -> list[Member]:
        return [Member(*row) for row in snapshot.run("log/members", (self.group_id,))]

    def _departed(self, members: list[Member]) -> list[str]:
        alive = {m.process: self._store.is_alive(m.process) for m in members}
        gone = departed(members, self._store.clock.now_us(), alive)
        return [member for member in gone if member != self.member_id]

    def _reconcile(self, tx: Transaction, start: Mapping[int, int]) -> dict[int, Owned]:
        members = self._members(tx)
        gone = self._departed(members)
        for member in gone:
            tx.run("log/group_partition_orphan", (self.group_id, member))
            tx.run("log/member_delete", (member,))
        missing = self.member_id not in {m.id for m in members}
        if missing:
            if not tx.run("log/group_get", (self.group_id,)):
                raise unknown_topic(self._info.name, str(self._store.path), [])
            self._insert_member(tx, self.group_id)
        if gone or missing:
            self._rebalance(tx, self.group_id)
        return self._settle(tx, start)

    def _settle(self, tx: Transaction, start: Mapping[int, int]) -> dict[int, Owned]:
        owned: dict[int, Owned] = {}
        for partition_id, position, owner, target, epoch in tx.run(
            "log/group_partitions", (self.group_id,)
        ):
            number = self._number_of[partition_id]
            if owner == self.member_id and target != self.member_id:
                tx.run("log/group_partition_release", (self.group_id, partition_id, owner))
                tell_group(tx, self.group_id)
            elif owner == self.member_id:
                owned[number] = Owned(number, epoch, position)
            elif owner is None and target == self.member_id:
                [[epoch, position]] = tx.run(
                    "log/group_partition_acquire", (self.member_id, self.group_id, partition_id)
                )
                if position is None:
                    # Where 'latest' was is settled once, or a crash before the first commit would move it.
                    position = start[number]
                    self._commit_one(tx, partition_id, position, epoch)
                owned[number] = Owned(number, epoch, position)
        return owned

    def _commit_one(self, tx: Transaction, partition_id: int, position: int, epoch: int) -> bool:
        return bool(
            tx.run(
                "log/group_partition_commit",
                (position, self.group_id, partition_id, self.member_id, epoch),
            )
        )

    def apply_commit(self, tx: Transaction, positions: Mapping[int, int]) -> None:
        """Store positions inside ``tx``. Raises Fenced for a partition that this member lost."""
        for number, position in positions.items():
            mine = self.owned.get(number)
            partition_id = self._info.partition_ids[number]
            if mine is None or not self._commit_one(tx, partition_id, position, mine.epoch):
                raise Fenced(
                    f"partition {number} belongs to another member now",
                    where=f"group {self.group!r} of topic {self._info.name!r}",
                    expected="a commit by the member that owns the partition",
                    next_step="go on polling; the other member reads these events again",
                )
        reach("group.commit_before_commit")

    def renew(self) -> None:
        """Prolong the session."""
        until = self._store.clock.now_us() + self._session_us
        self._store.write(
            lambda tx: tx.run("log/member_renew", (until, self.member_id)),
            durability=Durability.PROCESS,
        )

    def leave(self) -> None:
        """Give everything up at once, so that the others need not wait."""

        def work(tx: Transaction) -> None:
            tx.run("log/group_partition_orphan", (self.group_id, self.member_id))
            tx.run("log/member_delete", (self.member_id,))
            self._rebalance(tx, self.group_id)

        self._store.write(work, durability=Durability.PROCESS)
        self.owned = {}


def tell_group(tx: Transaction, group_id: int) -> None:
    """Let every member look at the group: who reads what has changed, or from where."""
    tx.run("log/group_bump", (group_id,))
    tx.wake(f"group:{group_id}")
