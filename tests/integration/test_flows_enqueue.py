"""Tasks that a flow calls: sent with its commit, checked when the plan is built, once after any kill."""

from __future__ import annotations

import dataclasses
import enum
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, Literal, TypedDict

import pyarrow as pa
import pytest

import millstream as ms
from millstream.engines.local import flow_calls
from millstream.engines.local.worker import Worker, WorkerSettings
from millstream.flows.flow import Flow
from millstream.primitives.errors import PlanError, StepError
from millstream.tasks.message import TaskFilter
from millstream.testing.flows_suite import at
from tests.integration import flows_enqueue_crash as crash

ROOT = Path(__file__).parents[2]


class Colour(enum.Enum):
    RED = "red"


@pytest.fixture
def app(store_path: Path) -> Iterator[ms.App]:
    with ms.App("shop", store=store_path, durability="process") as app:
        yield app


def orders(app: ms.App) -> Flow:
    topic = app.topic("orders", schema={"n": int, "who": str, "at": ms.Timestamp})
    topic.append([{"n": n, "who": "ab"[n % 2], "at": at(n)} for n in range(6)])
    return app.read(topic)


def work(app: ms.App) -> None:
    Worker(app.tasks_engine, app.tasks, WorkerSettings(burst=True), chance=Random(0)).run()


def stored(app: ms.App) -> int:
    return sum(app.tasks_engine.depth().values())


def test_a_stream_sends_a_call_for_each_row_once_and_goes_on(app: ms.App) -> None:
    seen: list[tuple[int, str]] = []

    @app.task
    def ship(n: int, who: str) -> None:
        seen.append((n, who))

    flow = orders(app).filter(ms.col("n") != 3).select("n", "who").enqueue(ship)
    assert flow.name == ship.name
    assert "enqueue task" in flow.explain()
    report = flow.stream(until="end", batch_events=2)
    assert (report.rows_in, report.rows_out, report.batches) == (6, 5, 3)
    assert flow.stream(until="end").rows_in == 0
    app.topic("orders", schema={"n": int, "who": str, "at": ms.Timestamp}).append(
        {"n": 6, "who": "c", "at": at(6)}
    )
    flow.stream(until="end")
    work(app)
    assert seen == [(0, "a"), (1, "b"), (2, "a"), (4, "a"), (5, "b"), (6, "c")]


def test_calls_and_events_are_one_commit(app: ms.App) -> None:
    @app.task
    def ship(n: int) -> None: ...

    flow = orders(app).select("n").write("out").enqueue(ship)
    assert flow.run().rows_out == 6
    assert app.read("out").collect().num_rows == 6
    assert stored(app) == 6
    assert flow.collect().num_rows == 6
    assert stored(app) == 6, "collect gives a table and sends nothing"


def test_a_call_brings_its_own_arguments_and_options(app: ms.App) -> None:
    @app.task
    def ship(how: str, n: int, *, copies: int = 1) -> None: ...

    flow = orders(app).filter(ms.col("n") == 2).select("n")
    flow.enqueue(ship.s("fast").set(queue="mail", priority=8, countdown=3600)).run()
    [task_id] = app.tasks.control.ids(TaskFilter(name=ship.name), tasks_max=10)
    status = app.tasks.result(task_id).status()
    assert (status.queue, status.priority, status.state) == ("mail", 8, "scheduled")


def test_a_window_calls_a_task_when_it_closes(app: ms.App) -> None:
    seen: list[tuple[datetime, int]] = []

    @app.task
    def bill(window_start: datetime, window_end: datetime, total: int) -> None:
        assert window_end - window_start == timedelta(minutes=3)
        seen.append((window_start, total))

    windowed = orders(app).window(ms.tumbling("3m"), on="at").agg(total=ms.sum("n"))
    windowed.enqueue(bill).stream(until="end")
    work(app)
    assert seen == [(at(0), 3), (at(3), 12)]


def test_a_row_whose_id_is_stored_is_not_sent_again(app: ms.App) -> None:
    @app.task
    def ship(n: int) -> None: ...

    flow = orders(app).select("n", id=ms.col("n") + 100).enqueue(ship, task_id="id")
    flow.run()
    flow.run()
    assert stored(app) == 6
    assert app.tasks.result("103").status().name == ship.name
    same = orders(app).select("n").filter(ms.col("n") < 2).enqueue(ship, task_id="n")
    same.run()
    assert stored(app) == 8

    @app.task
    def tick() -> None: ...

    orders(app).select(id=ms.col("n") + 200).enqueue(tick, task_id="id").run()
    assert stored(app) == 14, "a row without arguments is a call too"


def test_equal_calls_of_a_unique_task_are_stored_once(app: ms.App) -> None:
    @app.task(unique=True)
    def greet(who: str) -> None: ...

    orders(app).select("who").enqueue(greet).run()
    assert stored(app) == 2


@dataclasses.dataclass
class Order:
    n: int
    who: str
    at: datetime | None = None


class Urgent(TypedDict):
    n: int
    why: str


def test_a_task_of_one_record_takes_the_whole_row(app: ms.App) -> None:
    seen: list[object] = []

    @app.task
    def pack(order: Order, *, how: str = "box") -> None:
        seen.append((order, how))

    @app.task(batch=ms.Batch(max=10, wait="0s"))
    def ship(orders: list[Order]) -> list[None]:
        seen.append(orders)
        return [None] * len(orders)

    @app.task
    def hurry(order: Urgent) -> None: ...

    flow = orders(app).filter(ms.col("n") < 2)
    flow.enqueue(pack.s(how="bag")).run()
    flow.select("n", "who").enqueue(ship).run()
    work(app)
    first, second = Order(0, "a", at(0)), Order(1, "b", at(1))
    assert seen[:2] == [(first, "bag"), (second, "bag")]
    assert seen[2:] == [[Order(0, "a"), Order(1, "b")]]
    with pytest.raises(PlanError, match="'who' is no field of 'order'"):
        flow.select("n", "who").enqueue(hurry)
    with pytest.raises(PlanError, match="no column 'why'"):
        flow.select("n").enqueue(hurry)
    with pytest.raises(PlanError, match="'n' is str, which the field of 'order' does not take"):
        flow.select(n="who", why="who").enqueue(hurry)
    with pytest.raises(PlanError, match="'n' is no parameter"):
        flow.select("n").enqueue(pack)  # two parameters are open


def anything(**columns: Any) -> None: ...


def typed(n: int, who: str) -> None: ...


def wide(n: float, who: str | None, at: datetime, copies: int = 1) -> None: ...


def coloured(n: Literal[1, 2], who: Colour, at: object) -> None: ...


def wrong_type(n: str, who: str, at: datetime) -> None: ...


def wrong_choice(n: Literal["a"], who: str, at: datetime) -> None: ...


def more(n: int, who: str, at: datetime, where: str) -> None: ...


def by_position(n: int, who: str, at: datetime, /) -> None: ...


@pytest.mark.parametrize("function", [anything, wide, coloured])
def test_parameters_that_take_the_columns(app: ms.App, function: Any) -> None:
    orders(app).enqueue(app.task(function))


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (typed, "the column 'at' is no parameter"),
        (wrong_type, "the column 'n' is int"),
        (wrong_choice, "the column 'n' is int"),
        (more, "no column 'where'"),
        (by_position, "the column 'n' is no parameter"),
    ],
)
def test_rows_that_do_not_fit_are_refused_when_the_plan_is_built(
    app: ms.App, function: Any, why: str
) -> None:
    with pytest.raises(PlanError, match=why) as refused:
        orders(app).enqueue(app.task(function))
    assert refused.value.where == "step 1, enqueue"


def test_what_cannot_be_enqueued_says_so(app: ms.App) -> None:
    @app.task
    def ship(n: int) -> None: ...

    flow = orders(app).select("n")
    with pytest.raises(PlanError, match="has a value for it too"):
        flow.enqueue(ship.s(1))
    with pytest.raises(PlanError, match="callbacks"):
        flow.enqueue(ship.s().on_error(ship.s(1)))
    with pytest.raises(PlanError, match="same task_id"):
        flow.enqueue(ship.s().set(task_id="one"))
    with pytest.raises(PlanError, match="no column of text or integers"):
        flow.enqueue(ship, task_id="who")
    with pytest.raises(PlanError, match="is no task"):
        flow.enqueue(print)  # type: ignore[arg-type]
    with pytest.raises(PlanError, match="calls a task already"):
        flow.enqueue(ship).enqueue(ship)
    with pytest.raises(PlanError, match="is a task, not a place"):
        flow.write(ship)
    with pytest.raises(PlanError, match="filter comes after enqueue"):
        flow.enqueue(ship).filter(ms.col("n") > 1)
    with pytest.raises(PlanError, match="cannot become true together"):
        flow.enqueue(ship).write("numbers.parquet")
    with pytest.raises(PlanError, match="cannot become true together"):
        flow.write("numbers.parquet").enqueue(ship)


def test_a_value_that_does_not_fit_stops_the_flow_before_its_commit(app: ms.App) -> None:
    @app.task
    def ship(n: int) -> None: ...

    topic = app.topic("loose", schema={"n": int | None})  # type: ignore[dict-item]
    topic.append([{"n": 1}, {"n": None}])
    flow = app.read(topic).write("out").enqueue(ship)
    with pytest.raises(StepError, match="a row makes no call") as refused:
        flow.stream(until="end")
    assert "{'n': None}" in str(refused.value)
    with pytest.raises(StepError, match="a row makes no call"):
        flow.run()
    with pytest.raises(StepError, match="task_id is null"):
        app.read(topic).with_columns(m=1).select(n=ms.col("m"), id=ms.col("n")).enqueue(
            ship, task_id="id"
        ).run()
    assert stored(app) == 0
    assert app.read("out").collect().num_rows == 0
    app.read(topic).filter(ms.col("n") > 0).enqueue(ship).run()
    assert stored(app) == 1


def test_more_calls_than_one_commit_takes(app: ms.App, monkeypatch: pytest.MonkeyPatch) -> None:
    @app.task
    def ship(n: int) -> None: ...

    monkeypatch.setattr(flow_calls, "TASKS_PER_COMMIT_MAX", 5)
    flow = orders(app).select("n").enqueue(ship)
    with pytest.raises(StepError, match="6 rows would become calls in one commit"):
        flow.run()
    flow.stream(until="end", batch_events=5)
    assert stored(app) == 6


def counted(table: pa.Table) -> Counter[tuple[Any, ...]]:
    return Counter(tuple(row.values()) for row in table.to_pylist())


def run_until_killed(store: Path, what: str, step: str, nth: int) -> None:
    arguments = ["-m", "tests.integration.flows_enqueue_crash", str(store), what, step, str(nth)]
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize(
    ("step", "nth"),
    [
        ("flow.claimed", 1),
        ("flow.read", 2),
        ("flow.computed", 3),
        ("flow.staged", 2),
        ("task.inserted", 1),
        ("task.inserted", 2),
        ("flow.applied", 2),
        ("flow.committed", 1),
        ("flow.committed", 3),
        ("flow.closing", 1),
    ],
)
def test_a_killed_stream_has_sent_each_call_once(store_path: Path, step: str, nth: int) -> None:
    app, flow, bill = crash.world(store_path)
    with app:
        crash.fill(app)
        expected = counted(flow().collect())
    run_until_killed(store_path, "stream", step, nth)
    with app:
        crash.ended(flow()).stream(until="end", batch_events=crash.BATCH_EVENTS)
        assert counted(app.read("out").collect()) == expected
        assert crash.billed(app, bill) == expected


@pytest.mark.parametrize(
    ("step", "is_sent"),
    [("task.inserted", False), ("flow.staged", False), ("flow.batch_committed", True)],
)
def test_a_killed_batch_has_sent_all_calls_or_none(
    store_path: Path, step: str, is_sent: bool
) -> None:
    app, flow, bill = crash.world(store_path)
    with app:
        crash.fill(app)
        expected = counted(flow().collect())
    run_until_killed(store_path, "batch", step, 1)
    with app:
        assert app.read("out").collect().num_rows == is_sent * expected.total()
        assert crash.billed(app, bill) == (expected if is_sent else Counter())
