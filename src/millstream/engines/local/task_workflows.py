"""Workflows in the store's catalog: what follows the end of a task, in the transaction that ends it.

The end of a node goes up the tree as far as others end with it, and comes down where the next begin:

    task ends ─> its group has others that run: nothing follows
              └> it was the last: the group ends ─> the next of its chain begins ─> its calls are enqueued

All of that is one transaction, the one in which the fence of the task is checked. So after any crash either the task
has not ended, and runs again, or what follows is enqueued; nothing follows twice, because a node ends once.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from millstream.primitives.telemetry import reach
from millstream.store.catalog import Row
from millstream.store.transaction import Snapshot, Transaction
from millstream.tasks.limits import ARGUMENT_BYTES_MAX
from millstream.tasks.message import Attempt, Claimed, Outcome, TaskMessage, TaskStatus
from millstream.tasks.options import RESULT_TTL_US
from millstream.tasks.states import TaskState
from millstream.tasks.workflow_plan import (
    WORKFLOW_PREFIX,
    Call,
    Kind,
    NodeError,
    NodeSpec,
    Plan,
    Role,
)

Enqueue = Callable[[Transaction, Sequence[TaskMessage]], object]
CHORD_ERROR = "ChordError"
_PRUNED_WORKFLOWS_MAX = 10
_encode = msgspec.msgpack.Encoder().encode
_call_decoder = msgspec.msgpack.Decoder(Call)
_error_decoder = msgspec.msgpack.Decoder(NodeError)
_by_position_decoder = msgspec.msgpack.Decoder(tuple[list[msgspec.Raw], dict[str, msgspec.Raw]])
_STATES = {
    "waiting": TaskState.BLOCKED,
    "running": TaskState.RUNNING,
    "succeeded": TaskState.SUCCEEDED,
    "failed": TaskState.FAILED,
}


@dataclass(frozen=True, slots=True)
class _Node:
    """One row."""

    seq: int
    id: str
    root: int
    parent: int | None
    role: str
    position: int
    kind: str
    state: str
    remaining: int
    name: str
    queue: str
    created_us: int
    finished_us: int | None
    call: bytes | None
    value: bytes | None
    error: bytes | None

    @property
    def has_ended(self) -> bool:
        return self.finished_us is not None


def is_step(task_id: str) -> bool:
    """Tell whether a task belongs to a workflow; others cost no statement."""
    return task_id.startswith(WORKFLOW_PREFIX)


def begin(tx: Transaction, plan: Plan, enqueue: Enqueue) -> None:
    """Store a workflow and enqueue what waits for nothing. Forgets a few that have ended long ago."""
    tx.run("workflows/prune", (tx.now_us, _PRUNED_WORKFLOWS_MAX))
    progress = _Progress(tx, enqueue)
    progress.start(_insert(tx, plan.nodes), ())
    progress.finish()


def replace(tx: Transaction, task: Claimed, nodes: Sequence[NodeSpec], enqueue: Enqueue) -> None:
    """Let a workflow take the place of a task, whose row is removed: its node becomes a chain of that one member."""
    progress = _Progress(tx, enqueue)
    node = _running_task(tx, task.id) if is_step(task.id) else None
    if node is None:
        root = NodeSpec(task.id, task.id, None, Role.ROOT, 0, Kind.CHAIN, 1, None)
        node = _insert(tx, [root])
        tx.run("workflows/run", (node.seq,))
    else:
        progress.opened[node.root] -= 1
        tx.run("workflows/become_chain", (node.seq,))
    progress.start(_insert(tx, nodes, below=node), ())
    progress.finish()


def _insert(tx: Transaction, nodes: Sequence[NodeSpec], *, below: _Node | None = None) -> _Node:
    """Store nodes, parents first, and return the first one; ``below`` makes that the only member of another."""
    seqs: dict[str, int] = {}
    for spec in nodes:
        row = _new_row(tx, spec, seqs)
        if below is not None:
            row["root"] = below.root
            if spec.parent is None:
                row |= {"parent": below.seq, "role": Role.MEMBER}
        seqs[spec.id] = tx.run("workflows/insert", row)[0][0]
    reach("workflow.inserted")
    return _node(tx, "workflows/by_seq", (seqs[nodes[0].id],))


def succeeded(tx: Transaction, task_id: str, value: bytes, enqueue: Enqueue) -> None:
    """Carry on after the end of a task."""
    node = _running_task(tx, task_id)
    if node is not None:
        progress = _Progress(tx, enqueue)
        progress.opened[node.root] -= 1
        progress.end(node, value)
        progress.finish()


def failed(tx: Transaction, task_id: str, error: NodeError, enqueue: Enqueue) -> None:
    """Carry on after the failure of a task that is not tried again."""
    node = _running_task(tx, task_id)
    if node is not None:
        progress = _Progress(tx, enqueue)
        progress.opened[node.root] -= 1
        progress.fail(node, msgspec.structs.replace(error, task=node.name))
        progress.finish()


def step_status(snapshot: Snapshot, task_id: str) -> TaskStatus | None:
    """Return what is known of a node that is no task, not yet, or not any more."""
    found = snapshot.run("workflows/by_id", (task_id,))
    if not found:
        return None
    node = _Node(*found[0])
    return TaskStatus(
        id=node.id,
        name=node.name,
        queue=node.queue,
        priority=0,
        state=_STATES[node.state],
        enqueued_us=node.created_us,
        due_us=node.created_us,
        failures=0,
        deaths=0,
        finished_us=node.finished_us,
        result=node.value,
        last=None if node.error is None else _attempt(node, _error_decoder.decode(node.error)),
    )


class _Progress:
    """What follows from one event, step by step and not by recursion: trees may be deep."""

    def __init__(self, tx: Transaction, enqueue: Enqueue) -> None:
        self._tx = tx
        self._enqueue = enqueue
        self._events: deque[Callable[[], None]] = deque()
        self._messages: list[TaskMessage] = []
        self.opened: Counter[int] = Counter()
        """Tasks that were enqueued, less those that ended, by root."""

    def start(self, node: _Node, inputs: Sequence[bytes]) -> None:
        self._events.append(lambda: self._start(node, inputs))

    def end(self, node: _Node, value: bytes) -> None:
        self._events.append(lambda: self._end(node, value))

    def fail(self, node: _Node, error: NodeError) -> None:
        self._events.append(lambda: self._fail(node, error))

    def finish(self) -> None:
        """Do what follows, and what follows from that, until nothing does; then enqueue what has begun."""
        while self._events:
            self._events.popleft()()
        for root, change in self.opened.items():
            expires_us = self._tx.now_us + RESULT_TTL_US
            params = {"root": root, "change": change, "expires_us": expires_us}
            self._tx.run("workflows/count_open", params)
        reach("workflow.moved")
        if self._messages:
            self._enqueue(self._tx, self._messages)

    def _start(self, node: _Node, inputs: Sequence[bytes]) -> None:
        self._tx.run("workflows/run", (node.seq,))
        if node.kind == Kind.TASK:
            self._send(node, inputs)
            return
        members = self._below(node, Role.MEMBER)
        if not members:
            self.end(node, b"\x90")  # The value of an empty group is an empty list.
        for member in members if node.kind == Kind.GROUP else members[:1]:
            self.start(member, inputs)

    def _send(self, node: _Node, inputs: Sequence[bytes]) -> None:
        assert node.call is not None
        call = _call_decoder.decode(node.call)
        message = _message_at(call, inputs, self._tx.now_us)
        if len(message.arguments) > ARGUMENT_BYTES_MAX:
            what = f"the values handed to it take {len(message.arguments):,} bytes"
            error = f"{what}; expected: at most {ARGUMENT_BYTES_MAX:,}"
            self.fail(node, NodeError(node.id, node.name, "TaskArgumentError", error, ""))
            return
        self._messages.append(message)
        self.opened[node.root] += 1

    def _end(self, node: _Node, value: bytes) -> None:
        self._tx.run("workflows/succeed", (value, self._tx.now_us, node.seq))
        self._tx.wake(f"task:{node.id}")
        for link in self._below(node, Role.LINK):
            self.start(link, (value,))
        parent = self._parent(node)
        if parent is None:
            return
        if parent.kind == Kind.GROUP:
            self._count_down(parent)
            return
        following = self._member(parent, node.position + 1)
        if following is None:
            self.end(parent, value)
        else:
            self.start(following, (value,))

    def _fail(self, node: _Node, error: NodeError) -> None:
        tx = self._tx
        tx.run("workflows/fail", (_encode(error), tx.now_us, node.seq))
        tx.wake(f"task:{node.id}")
        self._skip(node, error)
        for link in self._below(node, Role.ERROR):
            self.start(link, _error_inputs(error))
        parent = self._parent(node)
        if parent is None:
            return
        if parent.kind == Kind.GROUP:
            self._count_down(parent)
            return
        following = self._member(parent, node.position + 1)
        if node.kind == Kind.GROUP and following is not None:
            # The body of a chord fails with an error of its own, which goes on from there.
            self.fail(following, _chord_error(following, error))
            return
        self.fail(parent, error)

    def _count_down(self, group: _Node) -> None:
        if self._tx.run("workflows/count_down", (group.seq,))[0][0]:
            return
        ends = self._tx.run("workflows/ends_below", (group.seq,))
        errors = [error for state, _, error in ends if state == "failed"]
        if errors:
            self.fail(group, _error_decoder.decode(errors[0]))
        else:
            self.end(group, _encode([msgspec.Raw(value) for _, value, _ in ends]))

    def _skip(self, node: _Node, error: NodeError) -> None:
        """Fail what is below and has not begun: it never will."""
        if node.kind == Kind.TASK:
            return
        params = {
            "parent": node.seq,
            "error": _encode(error),
            "now_us": self._tx.now_us,
        }
        for (skipped,) in self._tx.run("workflows/skip", params):
            self._tx.wake(f"task:{skipped}")

    def _below(self, node: _Node, role: Role) -> list[_Node]:
        return [_Node(*row) for row in self._tx.run("workflows/below", (node.seq, role))]

    def _member(self, parent: _Node, position: int) -> _Node | None:
        found = self._tx.run("workflows/member", (parent.seq, position))
        return _Node(*found[0]) if found else None

    def _parent(self, node: _Node) -> _Node | None:
        if node.role != Role.MEMBER:
            return None
        return _node(self._tx, "workflows/by_seq", (node.parent,))


def _new_row(tx: Transaction, spec: NodeSpec, seqs: dict[str, int]) -> dict[str, object]:
    call = spec.call
    return {
        "id": spec.id,
        "root": seqs.get(spec.root),
        "parent": None if spec.parent is None else seqs[spec.parent],
        "role": spec.role,
        "position": spec.position,
        "kind": spec.kind,
        "remaining": spec.members,
        "name": spec.kind if call is None else call.message.name,
        "queue": "" if call is None else call.message.queue,
        "created_us": tx.now_us,
        "call": None if call is None else _encode(call),
    }


def _message_at(call: Call, inputs: Sequence[bytes], now_us: int) -> TaskMessage:
    """Return the call as it is enqueued: the values before its own arguments, its times from now on."""
    changes: dict[str, object] = {}
    if call.inputs:
        args, kwargs = _by_position_decoder.decode(call.message.arguments)
        values = [msgspec.Raw(value) for value in inputs[: call.inputs]]
        changes["arguments"] = _encode((values + args, kwargs))
    for field in call.relative:
        relative_us = getattr(call.message, field)
        if relative_us is not None:
            changes[field] = now_us + relative_us
    return msgspec.structs.replace(call.message, **changes)


def _running_task(tx: Transaction, task_id: str) -> _Node | None:
    """Return the node of a task that has not ended; one that was requeued from the dead set has."""
    found = tx.run("workflows/by_id", (task_id,))
    node = _Node(*found[0]) if found else None
    return None if node is None or node.has_ended or node.kind != Kind.TASK else node


def _node(tx: Transaction, statement: str, params: Sequence[object]) -> _Node:
    rows: list[Row] = tx.run(statement, tuple(params))
    return _Node(*rows[0])


def _chord_error(body: _Node, error: NodeError) -> NodeError:
    text = f"Dependency {error.task_id} raised {error.error_type}: {error.error}"
    return NodeError(body.id, body.name, CHORD_ERROR, text, error.traceback)


def _error_inputs(error: NodeError) -> tuple[bytes, bytes, bytes]:
    text = f"{error.error_type}: {error.error}"
    return _encode(error.task_id), _encode(text), _encode(error.traceback)


def _attempt(node: _Node, error: NodeError) -> Attempt:
    ended_us = node.finished_us or node.created_us
    return Attempt(
        number=1,
        outcome=Outcome.RAISED,
        worker="",
        started_us=ended_us,
        ended_us=ended_us,
        error_type=error.error_type,
        error=error.error,
        traceback=error.traceback,
    )
