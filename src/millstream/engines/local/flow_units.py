"""The units of a flow that is shared, and who shares it, in the catalog.

A unit is a flow of its own there, with an owner, an epoch, a place and a state, so whatever makes a stream exact at a
crash makes a unit so. The flow that was divided keeps its name, and nothing else.

    flow "clicks"          row of the whole: no place, no state
    ├─ "clicks#0"          partition 0 of each source: epoch 3, owned by one process
    └─ "clicks#1"          partition 1

There is no coordinator. Each member looks who is there and alive, and all come to the same shares: who has a unit that
another shall have gives it up behind a commit, and the other takes it then. A member that was killed is seen by the
lock that the kernel took from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from millstream.engines.local import flow_catalog
from millstream.engines.local.flow_catalog import Claim
from millstream.engines.local.flow_split import Split, split
from millstream.flows.plan import Plan
from millstream.flows.sharding import Sharding
from millstream.log.assignment import assign
from millstream.primitives.codec import encode
from millstream.primitives.errors import Fenced, PlanError
from millstream.primitives.identity import new_id
from millstream.primitives.telemetry import reach
from millstream.store import Store, Transaction

OPEN_WAIT_S: Final = 5.0
"""How long a member waits for another one that divides the flow at this moment."""
_LOOK_S: Final = 0.1


@dataclass(frozen=True)
class Unit:
    """A unit as the catalog has it."""

    number: int
    name: str
    id: int
    owner: str | None
    member: str | None
    ended: bool


def unit_name(flow: str, number: int) -> str:
    """Return the name under which the catalog has a unit."""
    return f"{flow}#{number}"


def channel(flow: str) -> str:
    """Return what is woken when members or units of a flow change."""
    return f"flow:{flow}"


def flow_id_of(store: Store, name: str) -> int | None:
    """Return the number of a flow that is divided, or None."""
    rows = store.look("flows/get", (name,))
    if not rows:
        return None
    flow_id: int = rows[0][0]
    return flow_id if store.look("flows/units", (flow_id,)) else None


def units_of(store: Store, flow_id: int) -> list[Unit]:
    """Return the units of a flow in their order."""
    rows = store.look("flows/units", (flow_id,))
    return [
        Unit(number, name, unit_id, owner, member, bool(ended))
        for number, name, unit_id, owner, member, ended in rows
    ]


def divided(
    store: Store,
    name: str,
    plan: tuple[str, ...],
    places: Sequence[tuple[int, int]],
    sharding: Sharding,
    settle: Callable[[Claim], None],
) -> int:
    """Return the number of a flow whose units are there; one that was streamed whole is divided first.

    ``settle`` finishes what the last commit of the whole flow left to do outside the store. Then one transaction gives
    each unit its place and its part of the state. Raises Fenced while a process streams the whole flow.
    """
    deadline_s = store.clock.monotonic_s() + OPEN_WAIT_S
    with store.waiter(channel(name)) as waiter:
        while True:
            waiter.arm()
            flow_id = flow_id_of(store, name)
            if flow_id is not None:
                _refuse_other_units(name, len(units_of(store, flow_id)), sharding.units)
                return flow_id
            try:
                claim = flow_catalog.claim(store, name, plan, places)
            except Fenced:
                if store.clock.monotonic_s() >= deadline_s:
                    raise
                waiter.wait(_LOOK_S)
                continue
            # Another member may have divided it since: then the claim is of the empty whole, and is given back.
            _divide(store, claim, plan, places, sharding, settle)


def _refuse_other_units(name: str, there: int, asked: int) -> None:
    if there != asked:
        raise PlanError(
            f"flow {name!r} is divided into {there} units, and its topics have {asked} partitions",
            where=f"flow {name!r}",
            expected="as many partitions as when it was divided",
            next_step="forget the old state with flow.reset(), or give the flow another name with .named(…)",
        )


def _divide(
    store: Store,
    claim: Claim,
    plan: tuple[str, ...],
    places: Sequence[tuple[int, int]],
    sharding: Sharding,
    settle: Callable[[Claim], None],
) -> None:
    try:
        settle(claim)
        parts = split(claim, places, sharding, where=str(store.path))
        store.write(lambda tx: _insert_units(tx, claim, plan, places, parts))
        reach("flow.divided")
    finally:
        store.write(lambda tx: _give_back(tx, claim))


def _give_back(tx: Transaction, claim: Claim) -> None:
    flow_catalog.release(tx, claim)
    tx.wake(channel(claim.name))


def _insert_units(
    tx: Transaction,
    claim: Claim,
    plan: tuple[str, ...],
    places: Sequence[tuple[int, int]],
    parts: Sequence[Split],
) -> None:
    [[flow_id, epoch, *_]] = tx.run("flows/get", (claim.name,))
    if tx.run("flows/units", (flow_id,)):
        return
    if epoch != claim.epoch:
        raise Fenced(
            f"another process has taken over flow {claim.name!r}",
            where=f"epoch {claim.epoch}",
            expected="the newest epoch",
            next_step="start again",
        )
    for number, part in enumerate(parts):
        name = unit_name(claim.name, number)
        if tx.run("flows/get", (name,)):
            raise PlanError(
                f"there is a flow {name!r}, which is the name of a unit",
                where=f"flow {claim.name!r}",
                expected="names without # and a number",
                next_step="forget that flow with reset(), or give this one another name with .named(…)",
            )
        values = {"name": name, "owner": None, "fingerprint": encode(plan), "now_us": tx.now_us}
        [[unit_id]] = tx.run("flows/insert", values)
        tx.run("flows/unit_insert", (unit_id, flow_id, number))
        step = flow_catalog.Step(
            positions={places[at]: position for at, position in part.positions.items()},
            closed_until_us=claim.closed_until_us,
            states=part.states,
            rows_in=0,
            rows_out=0,
            late=0,
            untimed=0,
        )
        flow_catalog.advance(tx, Claim(unit_id, name, 1, {}), step)
    flow_catalog.drop_state(tx, flow_id)


class Membership:
    """One of those who share a flow. Belongs to one thread."""

    def __init__(self, store: Store, name: str, flow_id: int) -> None:
        """Join; a member that is alone begins a new run."""
        self._store = store
        self._name = name
        self._flow_id = flow_id
        self.member = new_id(store.clock)
        store.write(self._join)

    def _join(self, tx: Transaction) -> None:
        alive = False
        for member, process in tx.run("flows/members", (self._flow_id,)):
            if self._store.is_alive(process):
                alive = True
            else:
                tx.run("flows/member_delete", (member,))
        if not alive:
            tx.run("flows/units_begin", (self._flow_id,))
        tx.run("flows/member_insert", (self._flow_id, self.member, self._store.process))
        tx.wake(channel(self._name))

    def look(self) -> tuple[list[Unit], frozenset[int]]:
        """Return all units, and which of them this member shall have."""
        units = units_of(self._store, self._flow_id)
        members = [
            member
            for member, process in self._store.look("flows/members", (self._flow_id,))
            if self._store.is_alive(process)
        ]
        current = {u.number: u.member if self.is_running(u) else None for u in units}
        shares = assign(members, [unit.number for unit in units], current)
        return units, frozenset(n for n, member in shares.items() if member == self.member)

    def is_running(self, unit: Unit) -> bool:
        """Return whether a living process has the unit."""
        return unit.owner is not None and self._store.is_alive(unit.owner)

    def took(self, unit: Unit) -> None:
        """Note that this member runs a unit, which it has claimed."""
        self._store.write(lambda tx: _take(tx, self.member, unit.id))

    def left(self, tx: Transaction, unit: Unit, *, ended: bool) -> None:
        """Note that it does not any more."""
        tx.run("flows/unit_leave", (int(ended), unit.id, self.member))
        tx.wake(channel(self._name))

    def leave(self) -> None:
        """Share the flow no longer."""
        self._store.write(self._leave)

    def _leave(self, tx: Transaction) -> None:
        tx.run("flows/member_delete", (self.member,))
        tx.wake(channel(self._name))


def _take(tx: Transaction, member: str, unit_id: int) -> None:
    tx.run("flows/unit_take", (member, unit_id))


def refuse_shared(store: Store, name: str, flow_id: int) -> None:
    """Raise Fenced while a living process shares the flow."""
    for _, process in store.look("flows/members", (flow_id,)):
        if store.is_alive(process):
            raise Fenced(
                f"flow {name!r} is being shared already",
                where=str(store.path),
                expected="no other process",
                next_step="stop the others, or share the flow with them: stream(shared=True)",
            )


def forget_units(store: Store, flow_id: int, plan: Plan) -> None:
    """Drop the places and states of all units. Raises Fenced while a process has one."""
    for unit in units_of(store, flow_id):
        flow_catalog.forget(store, unit.name, plan)

    def work(tx: Transaction) -> None:
        tx.run("flows/units_delete", (flow_id,))
        tx.run("flows/members_delete", (flow_id,))

    store.write(work)
