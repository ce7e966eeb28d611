"""A workflow as it is stored: a tree of nodes, flat, parents first. Pure.

    chain(a, group(b, c), d)      0 chain ─┬─ 1 task a
                                           ├─ 2 group ─┬─ 3 task b
                                           │           └─ 4 task c
                                           └─ 5 task d

A chain hands the value of each member to the next; its own value is that of the last. A group hands what it is given to
each member; its value is the list of theirs. What is linked to a node hangs below it too, but belongs to nothing.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec

from millstream.primitives.errors import ConfigurationError
from millstream.primitives.identity import new_id
from millstream.tasks.arguments import any_arguments
from millstream.tasks.message import TaskMessage
from millstream.tasks.signature import Signature, steps_of

WORKFLOW_PREFIX = "wf-"
"""What the ids of all nodes begin with, so that the end of any other task costs nothing more."""
NODES_MAX = 100_000
"""Nodes of one workflow."""
DEPTH_MAX = 100
"""How deep groups and chains may be nested."""
_ERROR_INPUTS = 3
_POSITIONAL = ("POSITIONAL_ONLY", "POSITIONAL_OR_KEYWORD")


class Kind(StrEnum):
    """What a node is."""

    TASK = "task"
    CHAIN = "chain"
    GROUP = "group"


class Role(StrEnum):
    """Why a node hangs below its parent."""

    ROOT = "root"
    MEMBER = "member"
    LINK = "link"
    """It follows when the parent succeeds."""
    ERROR = "error"
    """It follows when the parent fails."""


class Call(msgspec.Struct, frozen=True):
    """The call of a task node. Without inputs its arguments are complete; otherwise they are by position and name."""

    message: TaskMessage
    inputs: int
    """How many values are put before its arguments: 0, 1, or 3 for an error callback that takes them."""
    relative: tuple[str, ...]
    """The times of the message that count from when it is sent."""


class NodeError(msgspec.Struct, frozen=True):
    """Why a node failed."""

    task_id: str
    task: str
    error_type: str
    error: str
    traceback: str


@dataclasses.dataclass(frozen=True, slots=True)
class NodeSpec:
    """One node."""

    id: str
    root: str
    parent: str | None
    role: Role
    position: int
    kind: Kind
    members: int
    call: Call | None


_nodes_decoder = msgspec.msgpack.Decoder(list[NodeSpec])


@dataclasses.dataclass(frozen=True, slots=True)
class Canvas:
    """Calls that belong together, not sent yet: the base of chains and groups."""

    steps: tuple[Signature[Any] | Canvas, ...]
    links: tuple[Signature[Any] | Canvas, ...] = ()
    error_links: tuple[Signature[Any] | Canvas, ...] = ()
    kind: Kind = Kind.CHAIN


Step = Signature[Any] | Canvas


@dataclasses.dataclass(slots=True)
class Plan:
    """The nodes of a workflow, and those who ask for their results by the step that they came from."""

    root: str
    nodes: list[NodeSpec] = dataclasses.field(default_factory=list)
    handles: dict[str, tuple[Step, list[str], list[str]]] = dataclasses.field(default_factory=dict)
    """Of each node its step, and the ids of its members and its links."""


def plan_of(step: Step) -> Plan:
    """Return the nodes of a step and all below it. Raises TaskArgumentError and ConfigurationError."""
    plan = Plan(WORKFLOW_PREFIX + new_id())
    _add(plan, step, parent=None, role=Role.ROOT, position=0, inputs=0, depth=0)
    return plan


def _add(
    plan: Plan,
    step: Step,
    *,
    parent: str | None,
    role: Role,
    position: int,
    inputs: int,
    depth: int,
) -> str:
    if len(plan.nodes) == NODES_MAX:
        raise _too_large(f"more than {NODES_MAX:,} nodes", f"at most {NODES_MAX:,}")
    if depth > DEPTH_MAX:
        raise _too_large(f"more than {DEPTH_MAX} levels", f"at most {DEPTH_MAX}")
    node_id = plan.root if parent is None else f"{plan.root}-{len(plan.nodes)}"
    steps = step.steps if isinstance(step, Canvas) else ()
    kind = step.kind if isinstance(step, Canvas) else Kind.TASK
    call = _call(step, node_id, inputs) if isinstance(step, Signature) else None
    plan.nodes.append(NodeSpec(node_id, plan.root, parent, role, position, kind, len(steps), call))
    members: list[str] = []
    links: list[str] = []
    plan.handles[node_id] = (step, members, links)
    for number, one in enumerate(steps):
        given = inputs if kind is Kind.GROUP or number == 0 else 1
        below = {"parent": node_id, "position": number, "inputs": given, "depth": depth + 1}
        members.append(_add(plan, one, role=Role.MEMBER, **below))  # type: ignore[arg-type]  # the keywords of _add
    followers = (
        (Role.LINK, links_of(step), 1),
        (Role.ERROR, error_links_of(step), _ERROR_INPUTS),
    )
    for kind_of_link, linked, given in followers:
        for number, one in enumerate(linked):
            link_id = _add(
                plan,
                one,
                parent=node_id,
                role=kind_of_link,
                position=number,
                inputs=given,
                depth=depth + 1,
            )
            links.append(link_id)
    return node_id


def stored_form(plan: Plan) -> bytes:
    """Return the nodes as bytes, for a worker to hand on."""
    return msgspec.msgpack.encode(plan.nodes)


def from_stored(data: bytes) -> list[NodeSpec]:
    """Return the nodes of ``stored_form``."""
    return _nodes_decoder.decode(data)


def links_of(step: Step) -> Sequence[Step]:
    """Return what follows when the step succeeds."""
    return step.links if isinstance(step, Canvas) else steps_of(step.link)


def error_links_of(step: Step) -> Sequence[Step]:
    """Return what follows when the step fails."""
    return step.error_links if isinstance(step, Canvas) else steps_of(step.link_error)


def _call(signature: Signature[Any], node_id: str, inputs: int) -> Call:
    if signature.task_id is not None:
        raise ConfigurationError(
            "a call inside a workflow has a task_id",
            where=f"task {signature.task.name!r}",
            expected="ids that the workflow gives",
            next_step="read the id from the result",
        )
    task = signature.task
    taken = 0 if signature.immutable else _inputs_of(signature, inputs)
    if taken:
        task.arguments.given((None,) * taken + signature.args, signature.kwargs)
    if taken or task.options.unique is not None:
        task = copy.copy(task)
        # A call for which another stands would never end here.
        task.options = dataclasses.replace(task.options, unique=None)
    if taken:
        task.__dict__["arguments"] = any_arguments(task.name)
    relative = [
        field
        for field, option in (("eta_us", signature.eta), ("start_before_us", signature.expires))
        if not isinstance(option, datetime)
    ]
    plain = msgspec.structs.replace(signature, task=task, task_id=node_id, link=(), link_error=())
    return Call(plain.message(0), taken, tuple(relative))


def _inputs_of(signature: Signature[Any], inputs: int) -> int:
    """Return how many values it takes: an error callback of one parameter takes the id of the failed task alone."""
    if inputs != _ERROR_INPUTS:
        return inputs
    places = [p for p in signature.task.arguments.parameters if p.kind.name in _POSITIONAL]
    free = (
        len(places) - len(signature.args) - len(signature.kwargs.keys() & {p.name for p in places})
    )
    return _ERROR_INPUTS if free >= _ERROR_INPUTS else 1


def _too_large(what: str, expected: str) -> ConfigurationError:
    return ConfigurationError(
        f"the workflow has {what}",
        expected=expected,
        next_step="let one task handle a part of the values, as `ms.chunks` does",
    )
