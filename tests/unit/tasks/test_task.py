"""The decorator, and the ways to send a call."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from millstream.primitives.backoff import Backoff
from millstream.primitives.errors import (
    ConfigurationError,
    SchemaError,
    TaskArgumentError,
    UnknownTask,
)
from millstream.tasks import registry as task_module
from millstream.tasks.control import TaskControl
from millstream.tasks.limits import NAME_LENGTH_MAX, TASKS_PER_COMMIT_MAX
from millstream.tasks.message import Attempt, TaskMessage, TaskStatus
from millstream.tasks.registry import TaskRegistry, task_name
from millstream.tasks.states import TaskState
from millstream.tasks.task import CoroutineTask, Task

NOW_US = 1_000_000_000


class Recorder:
    """An engine that keeps what it is sent."""

    def __init__(self) -> None:
        self.commits: list[Sequence[TaskMessage]] = []

    def now_us(self) -> int:
        return NOW_US

    @property
    def control(self) -> TaskControl:
        raise NotImplementedError

    def enqueue(self, messages: Sequence[TaskMessage]) -> Mapping[str, str]:
        self.commits.append(tuple(messages))
        return {}

    async def aenqueue(self, messages: Sequence[TaskMessage]) -> Mapping[str, str]:
        return self.enqueue(messages)

    async def await_end(self, task_id: str, timeout_s: float | None) -> TaskStatus:
        return self.wait(task_id, timeout_s)

    def status(self, task_id: str) -> TaskStatus | None:
        return None

    def wait(self, task_id: str, timeout_s: float | None) -> TaskStatus:
        raise NotImplementedError

    def attempts(self, task_id: str) -> list[Attempt]:
        return []

    def depth(self, queue: str | None = None) -> Mapping[TaskState, int]:
        return {}


@pytest.fixture
def engine() -> Recorder:
    return Recorder()


@pytest.fixture
def tasks(engine: Recorder) -> TaskRegistry:
    return TaskRegistry(engine=lambda: engine)


def only(engine: Recorder) -> TaskMessage:
    ((message,),) = engine.commits
    return message


def test_calling_a_task_runs_the_function_and_stores_nothing(
    tasks: TaskRegistry, engine: Recorder
) -> None:
    @tasks.task
    def add(a: int, b: int = 2) -> int:
        """Add."""
        return a + b

    assert isinstance(add, Task)
    assert add(1, b=5) == 6
    assert (add.__name__, add.__doc__, add.name) == (
        "add",
        "Add.",
        f"{__name__}.{add.__qualname__}".replace(".<locals>", ""),
    )
    assert engine.commits == []


def test_coroutine_functions_are_tasks_too(tasks: TaskRegistry) -> None:
    @tasks.task(retries=0)
    async def fetch(url: str) -> str:
        return url.upper()

    assert isinstance(fetch, CoroutineTask)
    assert asyncio.run(fetch("a")) == "A"


def test_delay_sends_one_message(tasks: TaskRegistry, engine: Recorder) -> None:
    @tasks.task(name="sum", queue="math", priority=9, acks_late=False)
    def add(a: int, b: int = 2) -> int:
        return a + b

    result = add.delay(1)
    message = only(engine)
    assert message.id == result.id
    assert (message.name, message.queue, message.priority) == ("sum", "math", 9)
    assert (message.acks_late, message.eta_us) == (False, None)
    assert add.arguments.decode(message.arguments) == ([], {"a": 1})


def test_nothing_is_sent_when_the_arguments_do_not_fit(
    tasks: TaskRegistry, engine: Recorder
) -> None:
    @tasks.task
    def add(a: int) -> int:
        return a

    with pytest.raises(TaskArgumentError):
        add.delay("one")  # type: ignore[arg-type]
    with pytest.raises(TaskArgumentError):
        add.enqueue_many([add.s(1), add.s("two")])  # type: ignore[arg-type]
    assert engine.commits == []


def test_apply_async_overrides(tasks: TaskRegistry, engine: Recorder) -> None:
    @tasks.task
    def add(a: int, b: int = 2) -> int:
        return a + b

    result = add.apply_async([1], {"b": 3}, countdown=1.5, queue="q", priority=0, task_id="mine")
    message = only(engine)
    assert (result.id, message.id) == ("mine", "mine")
    assert (message.queue, message.priority) == ("q", 0)
    assert message.eta_us == NOW_US + 1_500_000


def test_eta(tasks: TaskRegistry, engine: Recorder) -> None:
    @tasks.task
    def noop() -> None: ...

    at = datetime(2030, 1, 1, tzinfo=UTC)
    noop.apply_async(eta=at)
    assert only(engine).eta_us == int(at.timestamp()) * 1_000_000
    with pytest.raises(SchemaError, match="time zone"):
        noop.apply_async(eta=datetime(2030, 1, 1))  # noqa: DTZ001
    with pytest.raises(ConfigurationError, match="both"):
        noop.apply_async(eta=at, countdown=timedelta(1))


def test_many_calls_are_one_commit(tasks: TaskRegistry, engine: Recorder) -> None:
    @tasks.task
    def one(n: int) -> int:
        return n

    @tasks.task
    def two(s: str) -> str:
        return s

    results = one.enqueue_many(one.s(n) for n in range(3))
    mixed = tasks.enqueue_many([one.s(1), two.s("a").set(priority=8, countdown=1)])
    assert [len(commit) for commit in engine.commits] == [3, 2]
    assert [result.id for result in results] == [message.id for message in engine.commits[0]]
    assert len({message.id for commit in engine.commits for message in commit}) == 5
    assert [message.priority for message in engine.commits[1]] == [5, 8]
    assert len(mixed) == 2


def test_a_commit_is_bounded(tasks: TaskRegistry, engine: Recorder) -> None:
    @tasks.task
    def noop() -> None: ...

    call = noop.s()
    noop.enqueue_many(call for _ in range(TASKS_PER_COMMIT_MAX))
    with pytest.raises(ConfigurationError, match="calls at once"):
        noop.enqueue_many(call for _ in range(TASKS_PER_COMMIT_MAX + 1))
    assert [len(commit) for commit in engine.commits] == [TASKS_PER_COMMIT_MAX]


@pytest.mark.parametrize(
    "options",
    [
        {"priority": 10},
        {"priority": -1},
        {"queue": ""},
        {"queue": "a,b"},
        {"queue": "x" * (NAME_LENGTH_MAX + 1)},
        {"name": "new\nline"},
        {"retries": -1},
        {"backoff": "linear"},
        {"result_ttl": "yesterday"},
        {"result_ttl": timedelta(-1)},
    ],
)
def test_options_out_of_range_are_refused(tasks: TaskRegistry, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):

        @tasks.task(**options)
        def noop() -> None: ...


@pytest.mark.parametrize("options", [{"priority": 10}, {"queue": "a,b"}, {"task_id": ""}])
def test_options_of_a_call_are_checked(
    tasks: TaskRegistry, engine: Recorder, options: dict[str, Any]
) -> None:
    @tasks.task
    def noop() -> None: ...

    with pytest.raises(ConfigurationError):
        noop.apply_async(**options)
    assert engine.commits == []


def test_options_are_kept(tasks: TaskRegistry) -> None:
    @tasks.task(
        retries=7, backoff=Backoff.constant("5s"), autoretry_for=(OSError,), result_ttl="2h"
    )
    def noop() -> None: ...

    policy = noop.options.policy
    assert (policy.retries, policy.backoff.first_us, policy.retry_for) == (7, 5_000_000, (OSError,))
    assert noop.options.result_ttl_us == 7_200_000_000


def test_two_tasks_of_one_name_are_refused(tasks: TaskRegistry) -> None:
    @tasks.task(name="same")
    def one() -> None: ...

    with pytest.raises(ConfigurationError, match="same"):

        @tasks.task(name="same")
        def two() -> None: ...

    assert tasks.get("same") is one


def test_a_module_that_is_imported_again_defines_its_tasks_again(tasks: TaskRegistry) -> None:
    def noop() -> None: ...

    first = tasks.task(noop)
    assert tasks.task(noop) is not first
    assert len(tasks.names()) == 1


def test_only_functions_are_tasks(tasks: TaskRegistry) -> None:
    for thing in (int, "text", SimpleNamespace()):
        with pytest.raises(ConfigurationError, match="cannot be a task"):
            tasks.task(thing)  # type: ignore[call-overload]


def test_unknown_names_list_the_known_ones(tasks: TaskRegistry) -> None:
    @tasks.task(name="known")
    def noop() -> None: ...

    with pytest.raises(UnknownTask) as caught:
        tasks.get("unknown")
    assert caught.value.expected == "known"


def test_a_script_is_named_by_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def noop() -> None: ...

    noop.__module__ = "__main__"
    noop.__qualname__ = "noop"
    monkeypatch.setattr(task_module.sys, "modules", {"__main__": SimpleNamespace(__spec__=None)})
    assert task_name(noop) == "test_task.noop"
    spec = SimpleNamespace(name="shop.__main__")
    monkeypatch.setattr(task_module.sys, "modules", {"__main__": SimpleNamespace(__spec__=spec)})
    assert task_name(noop) == "shop.noop"


def test_a_loader_declares_what_is_asked_for(tasks: TaskRegistry) -> None:
    asked: list[str] = []

    def load(name: str) -> None:
        asked.append(name)
        if name != "late":
            raise UnknownTask(f"nobody knows {name}")
        tasks.task(name="late")(lambda: None)

    tasks.load_by(load)
    assert tasks.find("late") is tasks.get("late")
    assert tasks.find("never") is None
    with pytest.raises(UnknownTask, match="nobody knows never"):
        tasks.get("never")
    assert asked == ["late", "never", "never"], "what is declared is not loaded again"
