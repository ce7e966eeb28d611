"""Workflows with Celery's names: ``chain``, ``group``, ``chord``, ``chunks``; ``a.s(1) | b.s()``.

They are values: put together, nested and sent as a whole. What is stored then is every call; which one is next is
decided in the transaction that ends the one before.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Protocol

import msgspec

from millstream.primitives.errors import ConfigurationError, TaskFailed
from millstream.tasks.arguments import any_arguments
from millstream.tasks.contract import TaskEngine
from millstream.tasks.result import AsyncResult
from millstream.tasks.signature import Signature
from millstream.tasks.states import TaskState
from millstream.tasks.workflow_plan import Canvas, Kind, Plan, Step, plan_of

STARMAP = "millstream.starmap"
_raw_decoder = msgspec.msgpack.Decoder(list[msgspec.Raw])


class WorkflowEngine(TaskEngine, Protocol):
    """An engine of tasks that stores workflows too, and carries them on. Any thread."""

    def start_workflow(self, plan: Plan) -> None:
        """Store all nodes and enqueue those that wait for nothing, in one commit; durable when this returns."""
        ...

    async def astart_workflow(self, plan: Plan) -> None:
        """``start_workflow`` without blocking the event loop."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Workflow(Canvas):
    """A chain or a group that is not sent yet. Immutable; any thread."""

    def delay(self) -> AsyncResult[Any]:
        """Send it; return when it is durable.

        The result of a chain is that of its last step, with ``.parent`` before it; that of a group is a GroupResult.
        Raises what ``delay`` of a task raises; nothing is sent then.
        """
        return send_workflow(self)

    async def adelay(self) -> AsyncResult[Any]:
        """``delay`` without blocking the event loop."""
        return await asend_workflow(self)

    def apply_async(
        self, *, link: Step | Sequence[Step] = (), link_error: Step | Sequence[Step] = ()
    ) -> AsyncResult[Any]:
        """Send it with callbacks, see ``link`` and ``on_error``."""
        canvas = self
        for one in _many(link):
            canvas = canvas.link(one)
        for one in _many(link_error):
            canvas = canvas.on_error(one)
        return canvas.delay()

    def __call__(self) -> AsyncResult[Any]:
        """Send it, as ``delay``."""
        return self.delay()

    def link(self, callback: Step) -> Workflow:
        """Return the same with a callback, which is sent with the value when this succeeds."""
        return dataclasses.replace(self, links=(*self.links, callback))

    def on_error(self, callback: Step) -> Workflow:
        """Return the same with a callback for its failure, which is sent once.

        It is given the id of the task that failed, or if it takes three arguments also the error and its traceback as
        text. On a group it is put on each member, as Celery does.
        """
        if self.kind is Kind.GROUP:
            return dataclasses.replace(
                self, steps=tuple(with_error_link(step, callback) for step in self.steps)
            )
        return dataclasses.replace(self, error_links=(*self.error_links, callback))

    def __or__(self, other: Step) -> Workflow:
        """Return the chain of this and then the other: ``a.s(1) | b.s()``."""
        return chain(self, other)

    def __len__(self) -> int:
        """Return how many steps or members it has."""
        return len(self.steps)


def with_error_link(step: Step, callback: Step) -> Step:
    """Return the step with a callback for its failure."""
    if isinstance(step, Workflow):
        return step.on_error(callback)
    assert isinstance(step, Signature)
    return step.on_error(callback)


def chain(*steps: Step | Iterable[Step]) -> Workflow:
    """Return the workflow in which each step is given the value of the one before, put before its own arguments.

    A step of ``.si()`` takes none. A group that another step follows makes a chord: that step is given the list of all
    values. When a step fails those after it are not run. Raises ConfigurationError for none.
    """
    flat: list[Step] = []
    for step in _flat(steps):
        if isinstance(step, Canvas) and step.kind is Kind.CHAIN and not _is_linked(step):
            flat.extend(step.steps)
        else:
            flat.append(step)
    if not flat:
        raise ConfigurationError("a chain has no steps", expected="at least one call")
    return Workflow(tuple(flat), kind=Kind.CHAIN)


def group(*members: Step | Iterable[Step]) -> Workflow:
    """Return the workflow whose members run at the same time: ``ms.group(resize.s(name) for name in names)``."""
    return Workflow(tuple(_flat(members)), kind=Kind.GROUP)


@dataclasses.dataclass(frozen=True, slots=True)
class Chord:
    """What ``chord(header)`` returns: calling it with the body sends it."""

    header: Workflow

    def __call__(self, body: Step) -> AsyncResult[Any]:
        """Send it; the result is that of the body, its ``.parent`` is that of the header."""
        return chain(self.header, body).delay()


def chord(header: Workflow | Iterable[Step], body: Step | None = None) -> Any:  # noqa: ANN401 - as below
    """Return a Chord to be called with its body, ``ms.chord(header)(body)``; or, given both, the Workflow of them.

    The body is given the list of all values of the header. When a member fails for good, the body is not run; its error
    callbacks are sent with a ChordError once all members have ended.
    """
    first = header if isinstance(header, Workflow) else group(*header)
    if first.kind is not Kind.GROUP:
        first = group(first)
    return Chord(first) if body is None else chain(first, body)


def chunks(task: Any, values: Iterable[Sequence[Any]], size: int) -> Workflow:  # noqa: ANN401 - AnyTask of any kind
    """Return the group of one call for each ``size`` of the values, each a sequence of arguments of the task.

    The task's function runs for each of them inside that call, whose value is the list of theirs: worth it for
    functions that take less than about 0.1 ms. They fail and are tried again together.
    """
    if size < 1:
        raise ConfigurationError(f"chunks of {size}", expected="at least 1")
    iterator = iter(values)
    parts = iter(lambda: [list(one) for one in islice(iterator, size)], [])
    return group(starmap(task, part) for part in parts)


def starmap(task: Any, values: Iterable[Sequence[Any]]) -> Signature[list[Any]]:  # noqa: ANN401 - as above
    """Return one call that runs the task's function for each sequence of arguments, one after the other."""
    caller = _caller(task)
    return Signature(caller, (task.name, [list(one) for one in values]), {}, immutable=True)


def _caller(task: Any) -> Any:  # noqa: ANN401 - as above
    """Return the task that runs others, with the queue, priority and lifetime of this one."""
    if task.options.batch is not None:
        raise ConfigurationError(
            "a batch takes many calls at once by itself",
            where=f"task {task.name!r}",
            expected="a task without `batch=`",
            next_step="send a group of its calls, or use its `map`",
        )
    caller = copy.copy(task)
    caller.name = STARMAP
    caller.limit = None
    caller.options = dataclasses.replace(task.options, lock=False, unique=None)
    caller.__dict__["arguments"] = any_arguments(STARMAP)
    caller.__dict__["returned"] = _AnyList(task)
    return caller


class _AnyList:
    """Reads the values of a ``starmap`` as what the annotation of its task says."""

    def __init__(self, task: Any) -> None:  # noqa: ANN401 - as above
        self._task = task

    def decode(self, data: bytes) -> list[Any]:
        return [self._task.decode(bytes(raw)) for raw in _raw_decoder.decode(data)]


class GroupResult(AsyncResult[list[Any]]):
    """The members of a group that was sent. Any thread."""

    __slots__ = ("results",)

    def __init__(
        self, task_id: str, *, engine: TaskEngine, results: Sequence[AsyncResult[Any]]
    ) -> None:
        """Made by sending a group."""
        super().__init__(task_id, engine=engine, decode=self._decode_all)
        self.results = tuple(results)
        """The results of the members, in their order."""

    def get(self, timeout: float | None = None, *, propagate: bool = True) -> list[Any]:
        """Wait until all have ended and return their values in order.

        Raises what the first failed member raises; with ``propagate=False`` errors stand in the list instead. Raises
        ResultTimeout.
        """
        status = self._engine.wait(self.id, timeout)
        if propagate or status.state is TaskState.SUCCEEDED:
            return self._value(status)
        return [_value_or_error(one) for one in self.results]

    join = get

    def completed_count(self) -> int:
        """Return how many members have succeeded."""
        return sum(one.successful() for one in self.results)

    def waiting(self) -> bool:
        """Tell whether a member has not ended."""
        return not self.ready()

    def revoke(self, reason: str = "on request", *, terminate: bool = False) -> bool:
        """Revoke every member that waits or runs; those that have ended stay. True if there was one."""
        done = [one.revoke(reason, terminate=terminate) for one in self.results]
        return any(done)

    def __iter__(self) -> Iterator[AsyncResult[Any]]:
        """Iterate over the results of the members."""
        return iter(self.results)

    def __len__(self) -> int:
        """Return how many members there are."""
        return len(self.results)

    def __getitem__(self, index: int) -> AsyncResult[Any]:
        """Return the result of one member."""
        return self.results[index]

    def _decode_all(self, data: bytes) -> list[Any]:
        values = _raw_decoder.decode(data)
        return [one._decode(bytes(raw)) for one, raw in zip(self.results, values, strict=True)]


def _value_or_error(one: AsyncResult[Any]) -> Any:  # noqa: ANN401 - what the member returned
    try:
        return one.get(0, propagate=False) if isinstance(one, GroupResult) else one.get(0)
    except TaskFailed as error:
        return error


def send_workflow(step: Step) -> AsyncResult[Any]:
    """Store a workflow, or a call with callbacks; return its result."""
    plan = plan_of(step)
    engine = _engine_of(step)
    engine.start_workflow(plan)
    return _result_of(plan, engine, plan.root)


async def asend_workflow(step: Step) -> AsyncResult[Any]:
    """``send_workflow`` without blocking the event loop."""
    plan = plan_of(step)
    engine = _engine_of(step)
    await engine.astart_workflow(plan)
    return _result_of(plan, engine, plan.root)


def _engine_of(step: Step) -> WorkflowEngine:
    while isinstance(step, Canvas):
        if not step.steps:
            raise ConfigurationError(
                "a workflow without a call cannot be sent",
                expected="at least one call in it",
                next_step="check the values that it was made of",
            )
        step = next((one for one in step.steps if not isinstance(one, Canvas)), step.steps[0])
    engine: WorkflowEngine = step.task._engine()
    return engine


def _result_of(
    plan: Plan, engine: WorkflowEngine, node_id: str, parent: AsyncResult[Any] | None = None
) -> AsyncResult[Any]:
    """Return the handle of a node; that of a chain is its last member's."""
    step, members, links = plan.handles[node_id]
    result: AsyncResult[Any]
    if isinstance(step, Signature):
        result = AsyncResult(node_id, engine=engine, decode=step.task.decode)
    elif step.kind is Kind.GROUP:
        results = [_result_of(plan, engine, member) for member in members]
        result = GroupResult(node_id, engine=engine, results=results)
        result.children = tuple(results)
    else:
        before = parent
        for member in members:
            result = _result_of(plan, engine, member, before)
            if before is not None and before is not parent:
                before.children = (*before.children, result)
            before = result
    if result.parent is None:
        result.parent = parent
    linked = [_result_of(plan, engine, link, result) for link in links]
    result.children = (*result.children, *linked)
    return result


def _flat(steps: Sequence[Step | Iterable[Step]]) -> list[Step]:
    flat: list[Step] = []
    for step in steps:
        if isinstance(step, (Signature, Canvas)):
            flat.append(step)
        elif isinstance(step, Iterable):
            flat.extend(_flat(tuple(step)))
        else:
            raise ConfigurationError(
                f"{step!r} cannot be part of a workflow",
                expected="a call such as task.s(1), a chain or a group",
            )
    return flat


def _many(steps: Step | Sequence[Step]) -> Sequence[Step]:
    return (steps,) if isinstance(steps, (Signature, Canvas)) else tuple(steps)


def _is_linked(step: Canvas) -> bool:
    return bool(step.links or step.error_links)
