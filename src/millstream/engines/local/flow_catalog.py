"""Flows in the catalog: who streams which, from where it continues, and one commit a micro-batch.

A flow belongs to one process at a time. Its ``epoch`` grows with each take-over and is checked in each commit, so a
process that was thought dead cannot write any more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from millstream.engines.local.flow_delivery import Delivery, Packed
from millstream.engines.local.flow_file_intake import FileMark
from millstream.engines.local.flow_files import (
    Written,
    drop_outgoing,
    options_of,
    outgoing_folder,
    publish_all,
)
from millstream.engines.local.flow_state import Blob, StateChange
from millstream.flows.fingerprint import difference
from millstream.flows.plan import Plan
from millstream.flows.watermark import TIME_MIN
from millstream.primitives.codec import decode, encode
from millstream.primitives.errors import Fenced, PlanError
from millstream.store import Snapshot, Store, Transaction


@dataclass(frozen=True)
class Position:
    """Where a flow has come to in one partition."""

    next_offset: int
    seen_us: int = TIME_MIN


@dataclass(frozen=True)
class Claim:
    """A flow that this process may stream, and from where."""

    flow_id: int
    name: str
    epoch: int
    positions: Mapping[int, Position]
    """By the number of the partition, counted through the topics in their order."""
    closed_until_us: Mapping[int, int] = field(default_factory=dict)
    """Up to where each state is closed, by its number; without an entry nothing was closed."""
    state: Mapping[int, tuple[Blob, ...]] = field(default_factory=dict)
    """The states of the stages, by their numbers."""
    files: tuple[tuple[str, str], ...] = ()
    """Files of the last commit, as they are named and as they shall be: perhaps not renamed yet."""
    inputs: Mapping[str, FileMark] = field(default_factory=dict)
    """How far files were read, by their paths."""
    delivery: Delivery | None = None
    """Rows of the last commit for a table: perhaps not delivered yet."""


@dataclass(frozen=True)
class Step:
    """What one micro-batch changes, apart from its output."""

    positions: Mapping[tuple[int, int], Position]
    """By topic and partition."""
    closed_until_us: Mapping[int, int]
    states: tuple[StateChange, ...]
    rows_in: int
    rows_out: int
    late: int
    untimed: int
    files: tuple[Written, ...] = ()
    inputs: tuple[FileMark, ...] = ()
    packed: Packed | None = None
    """Rows for a table."""
    figures: bytes | None = None
    """How the run is doing."""


def claim(
    store: Store, name: str, plan: tuple[str, ...], places: Sequence[tuple[int, int]]
) -> Claim:
    """Take the flow over, made if it is new. One transaction. ``places`` are the topic and partition of each number.

    Raises Fenced when a living process streams it, PlanError when its state was made by another plan or topic.
    """
    while True:
        with store.read() as snapshot:
            seen = snapshot.run("flows/get", (name,))
        _refuse_running(store, name, seen[0][2] if seen else None)
        taken = store.write(_claiming(store.process, name, plan, places, seen))
        if taken is not None:
            return taken


def _refuse_running(store: Store, name: str, owner: str | None) -> None:
    if owner is not None and store.is_alive(owner):
        here = " (in this process)" if owner == store.process else ""
        raise Fenced(
            f"flow {name!r} is being streamed already{here}",
            where=str(store.path),
            expected="one process that streams a flow",
            next_step="stop the other one, or give this flow another name with .named(…)",
        )


def _claiming(
    process: str,
    name: str,
    plan: tuple[str, ...],
    places: Sequence[tuple[int, int]],
    seen: list[tuple[object, ...]],
) -> Callable[[Transaction], Claim | None]:
    """Return the transaction; it gives None if another process was faster than ``seen``."""

    def work(tx: Transaction) -> Claim | None:
        now = tx.run("flows/get", (name,))
        if [row[1:3] for row in now] != [row[1:3] for row in seen]:
            return None
        if not now:
            values = {
                "name": name,
                "owner": process,
                "fingerprint": encode(plan),
                "now_us": tx.now_us,
            }
            [[flow_id]] = tx.run("flows/insert", values)
            return Claim(flow_id, name, 1, {})
        [(flow_id, _, _, stored, closed_until_us, *_)] = now
        _refuse_difference(name, tuple(decode(stored)), plan)
        positions = _positions(tx, flow_id, name, places)
        taking = {"owner": process, "fingerprint": encode(plan), "flow_id": flow_id}
        [[epoch]] = tx.run("flows/take", taking)
        state: dict[int, tuple[Blob, ...]] = {}
        for stage, *blob in tx.run("flows/state", (flow_id,)):
            state[stage] = (*state.get(stage, ()), tuple(blob))
        closed = dict(tx.run("flows/stages", (flow_id,)))
        if closed_until_us is not None:
            closed[0] = closed_until_us
        files = tuple((partial, final) for partial, final in tx.run("flows/files", (flow_id,)))
        inputs = {
            path: FileMark(path, size_bytes, modified_us, rows_read, is_done=bool(is_done))
            for path, size_bytes, modified_us, rows_read, is_done in tx.run(
                "flows/inputs", (flow_id,)
            )
        }
        return Claim(
            flow_id, name, epoch, positions, closed, state, files, inputs, _delivery(tx, flow_id)
        )

    return work


def _delivery(snapshot: Snapshot, flow_id: int) -> Delivery | None:
    for number, target, crc, payload, done in snapshot.run("flows/delivery", (flow_id,)):
        return Delivery(number, Packed(target, crc, payload), done)
    return None


def _refuse_difference(name: str, before: tuple[str, ...], now: tuple[str, ...]) -> None:
    changed = difference(before, now)
    if changed is not None:
        raise PlanError(
            f"the plan has changed since the state of flow {name!r} was made: {changed}",
            where=f"flow {name!r}",
            expected="the same source, and the same steps up to the last one that keeps state",
            next_step="give the changed flow another name with .named(…), or forget the old state "
            "with flow.reset()",
        )


def _positions(
    snapshot: Snapshot, flow_id: int, name: str, places: Sequence[tuple[int, int]]
) -> dict[int, Position]:
    positions = {}
    for topic_id, partition, next_offset, seen_us in snapshot.run("flows/positions", (flow_id,)):
        if (topic_id, partition) not in places:
            raise PlanError(
                "the topic was deleted and made again since the flow read it",
                where=f"flow {name!r}",
                expected="the topic whose offsets the flow remembers",
                next_step="forget the old state with flow.reset(), or rename the flow",
            )
        number = places.index((topic_id, partition))
        positions[number] = Position(next_offset, TIME_MIN if seen_us is None else seen_us)
    return positions


def advance(tx: Transaction, owner: Claim, step: Step) -> Delivery | None:
    """Store a micro-batch's effects in ``tx``; return what is to be delivered to a table behind the commit.

    Raises Fenced if another process has taken over.
    """
    values = {
        "flow_id": owner.flow_id,
        "epoch": owner.epoch,
        "closed_until_us": _or_null(step.closed_until_us.get(0, TIME_MIN)),
        "rows_in": step.rows_in,
        "rows_out": step.rows_out,
        "late": step.late,
        "untimed": step.untimed,
        "batches": 1,
        "figures": step.figures,
        "now_us": tx.now_us,
    }
    if not tx.run("flows/advance", values):
        raise Fenced(
            f"another process has taken over flow {owner.name!r}",
            where=f"epoch {owner.epoch}",
            expected="the newest epoch",
            next_step="let this process end; nothing of its last batch was stored",
        )
    tx.many(
        "flows/position_set",
        [
            (owner.flow_id, topic_id, partition, at.next_offset, _or_null(at.seen_us))
            for (topic_id, partition), at in step.positions.items()
        ],
    )
    inputs = [
        (owner.flow_id, m.path, m.size_bytes, m.modified_us, m.rows_read, int(m.is_done))
        for m in step.inputs
    ]
    if inputs:
        tx.many("flows/input_set", inputs)
    tx.run("flows/files_delete", (owner.flow_id,))
    for file in step.files:
        tx.run("flows/file_insert", (owner.flow_id, str(file.partial), file.final))
    behind = [(owner.flow_id, *stage) for stage in step.closed_until_us.items() if stage[0]]
    if behind:
        tx.many("flows/stage_set", behind)
    for stage, state in enumerate(step.states):
        if state.replaces:
            tx.run("flows/state_clear", (owner.flow_id, stage))
        if state.blobs:
            tx.many("flows/state_append", [(owner.flow_id, stage, *blob) for blob in state.blobs])
    tx.run("flows/delivery_delete", (owner.flow_id,))
    if step.packed is None:
        return None
    packed = step.packed
    values_of = (owner.flow_id, packed.target, packed.crc, packed.payload)
    [[number]] = tx.run("flows/delivery_insert", values_of)
    return Delivery(number, packed)


def store_identity(store: Store) -> str:
    """Return who the store is, to databases of the user."""
    [[identity]] = store.look("flows/store_identity", ())
    return str(identity)


def undelivered(store: Store, name: str) -> Delivery | None:
    """Return what the last commit of a flow has for a table."""
    with store.read() as snapshot:
        rows = snapshot.run("flows/get", (name,))
        return _delivery(snapshot, rows[0][0]) if rows else None


def refuse_running(store: Store, name: str) -> None:
    """Raise Fenced while a living process streams the flow."""
    with store.read() as snapshot:
        rows = snapshot.run("flows/get", (name,))
    _refuse_running(store, name, rows[0][2] if rows else None)


def release(tx: Transaction, owner: Claim, *, delivered: int = 0) -> None:
    """Give the flow back, unless another process has it by now; ``delivered`` is the last number that a table has."""
    if delivered:
        tx.run("flows/delivery_done", (owner.flow_id, delivered))
    tx.run("flows/release", {"flow_id": owner.flow_id, "epoch": owner.epoch})


def forget(store: Store, name: str, plan: Plan) -> None:
    """Drop a flow's place and state: its next stream begins at the beginning. One transaction.

    Its output stays. Raises Fenced while a process streams it.
    """
    with store.read() as snapshot:
        rows = snapshot.run("flows/get", (name,))
    if not rows:
        return
    flow_id, epoch, owner = rows[0][:3]
    _refuse_running(store, name, owner)
    files = [(partial, final) for partial, final in store.look("flows/files", (flow_id,))]
    publish_all(files, options_of(plan))
    drop_outgoing(outgoing_folder(store.path, flow_id))

    def work(tx: Transaction) -> None:
        if tx.run("flows/delete", {"flow_id": flow_id, "epoch": epoch}):
            drop_state(tx, flow_id)

    store.write(work)


def drop_state(tx: Transaction, flow_id: int) -> None:
    """Drop where a flow has come to and what it keeps."""
    tx.run("flows/positions_delete", (flow_id,))
    tx.run("flows/state_delete", (flow_id,))
    tx.run("flows/stages_delete", (flow_id,))
    tx.run("flows/files_delete", (flow_id,))
    tx.run("flows/inputs_delete", (flow_id,))
    tx.run("flows/delivery_delete", (flow_id,))


def _or_null(time_us: int) -> int | None:
    return None if time_us == TIME_MIN else time_us
