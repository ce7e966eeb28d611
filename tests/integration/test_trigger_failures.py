"""What goes wrong around triggers: clocks that jump, errors that cannot be stored, flows that cannot run, circles."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from river import linear_model

import millstream as ms
from millstream.engines.local.flow_trigger_facts import Listings, LocalFacts
from millstream.engines.local.flow_triggers import ERROR_CHARS_MAX, LocalTriggers
from millstream.engines.local.flows import LocalFlows
from millstream.engines.local.log import LocalLog
from millstream.flows.triggers import TriggerRegistry
from millstream.log.definition import topic_spec
from millstream.primitives.errors import ConfigurationError, StoreClosed, StoreStopped
from millstream.primitives.telemetry import set_listener
from millstream.store import Store
from millstream.testing import FaultyDisk, VirtualClock
from tests.triggers_kit import add, declare, once_at, only, opened, out

HOUR_US = 3_600_000_000
YEAR_US = 365 * 86_400_000_000


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def app(store_path: Path, clock: VirtualClock) -> Iterator[ms.App]:
    with opened(store_path, clock) as app:
        yield app


# ---- clocks -------------------------------------------------------------------------------------


def test_a_run_while_the_clock_was_ahead_keeps_none_from_running_when_it_is_right(
    app: ms.App, clock: VirtualClock
) -> None:
    """right ──▶ a year ahead: one run ──▶ right again ──10m──▶ run"""
    declare(app, ms.every("10m"))
    assert app.triggers.run_due() == 0
    clock.jump(YEAR_US)
    assert app.triggers.run_due() == 1
    clock.jump(-YEAR_US)
    assert app.triggers.run_due() == 0
    clock.advance("10m")
    assert app.triggers.run_due() == 1
    clock.advance("10m")
    assert app.triggers.run_due() == 1


def test_a_clock_that_goes_back_a_little_runs_nothing_twice(
    app: ms.App, clock: VirtualClock
) -> None:
    declare(app, ms.cron("0 3 * * *"))
    assert app.triggers.run_due() == 0
    due_us = only(app).due_us
    assert due_us is not None
    clock.jump(due_us - clock.now_us())
    assert app.triggers.run_due() == 1
    clock.jump(-60_000_000)
    clock.advance("2m")
    assert app.triggers.run_due() == 0


def test_a_failure_while_the_clock_was_ahead_holds_nothing_back(
    app: ms.App, clock: VirtualClock
) -> None:
    is_broken = True

    @app.trigger(ms.gathered("orders", events=1))
    def job() -> ms.Flow:
        if is_broken:
            raise ValueError("no")
        return app.read("orders").write("out_job")

    add(app, 1)
    clock.jump(YEAR_US)
    assert app.triggers.run_due() == 1
    clock.jump(-YEAR_US)
    is_broken = False
    assert app.triggers.run_due() == 1
    assert out(app) == [1]


# ---- errors -------------------------------------------------------------------------------------


def test_an_error_about_a_name_that_is_no_text_is_stored_and_cut(
    app: ms.App, clock: VirtualClock
) -> None:
    @app.trigger(ms.gathered("orders", events=1))
    def job() -> ms.Flow:
        raise ValueError("caf\udce9.csv " + "x" * 10_000)

    add(app, 1)
    heard: list[str] = []
    assert app.triggers.run_due(report=heard.append) == 1
    error = str(only(app).error)
    assert error.startswith(r"ValueError: caf\udce9.csv xxx")
    assert ERROR_CHARS_MAX <= len(error) < ERROR_CHARS_MAX + 10
    heard[0].encode()


def test_an_error_of_another_store_is_one_of_the_run(
    app: ms.App, clock: VirtualClock, tmp_path: Path
) -> None:
    other = opened(tmp_path / "other.mill", clock)
    store = other.log_engine.store
    other.close()

    @app.trigger(ms.gathered("orders", events=1), name="away")
    def away() -> ms.Flow:
        store.write(lambda tx: None)
        raise AssertionError("it is closed")

    declare(app, ms.gathered("orders", events=1))
    add(app, 1)
    heard: list[str] = []
    assert app.triggers.run_due(report=heard.append) == 2
    assert "trigger away failed, and is tried again in 5 s: the store is closed" in heard[0]
    assert out(app) == [1]


def test_a_store_that_is_closed_ends_it(app: ms.App) -> None:
    declare(app, ms.gathered("orders", events=1))
    add(app, 1)
    engine = app.log_engine.store
    once_at("trigger.noted", engine.close)
    try:
        with pytest.raises(StoreClosed):
            app.triggers.run_due()
    finally:
        set_listener(None)


@contextmanager
def on_faulty_disk(
    path: Path, clock: VirtualClock, durability: str
) -> Iterator[tuple[TriggerRegistry, FaultyDisk, LocalLog]]:
    """A trigger that copies a topic, due, on a disk that may fail."""
    disk = FaultyDisk()
    with Store.open(path, disk=disk, durability=durability, clock=clock) as store:
        store.duty.stop()
        log = LocalLog(store)
        spec = {"key": None, "partitions": 1, "retention": None, "retention_bytes": None}
        info = log.create_topic(topic_spec("orders", schema={"eur": int}, compaction=False, **spec))
        log.append(info, [{"eur": 1}])
        triggers = TriggerRegistry(engine=lambda: LocalTriggers(log))

        @triggers.declare(ms.gathered("orders", events=1))
        def job() -> ms.Flow:
            return LocalFlows(log).read_topic("orders").write("copies")

        yield triggers, disk, log
        disk.heal()
        log.close()


def test_a_failure_that_the_full_disk_cannot_take_is_told_and_waits_too(
    store_path: Path, clock: VirtualClock
) -> None:
    """note ──▶ the disk is full: neither the run nor its failure can be stored ──5s──▶ there is room: run

    The clock is set back then, which makes no difference to what comes.
    """
    stop = threading.Event()
    heard: list[tuple[int, str]] = []
    with on_faulty_disk(store_path, clock, "process") as (triggers, disk, log):

        def report(line: str) -> None:
            heard.append((clock.now_us(), line))
            disk.heal()
            if len(heard) == 1:
                clock.advance("4990ms")
            elif len(heard) == 2:
                clock.jump(-HOUR_US)
                log.append(log.topic("orders"), [{"eur": 2}])
            else:
                stop.set()

        once_at(
            "trigger.noted",
            lambda: disk.fail("write", name="catalog.db-wal", error=errno.ENOSPC),
        )
        try:
            triggers.run(stop=stop, report=report)
        finally:
            set_listener(None)
        assert [one.runs for one in triggers.list()] == [2]
    (failed_us, failed), (done_us, done), (again_us, again) = heard
    assert failed.startswith("trigger job failed, and is tried again in 5 s")
    assert "space" in failed
    assert done.startswith("flow job: batch, 1 rows in")
    assert done_us - failed_us >= 5_000_000
    assert again.startswith("flow job: batch, 2 rows in")
    assert again_us < failed_us


def test_a_store_that_may_not_be_written_to_any_more_ends_it(
    store_path: Path, clock: VirtualClock
) -> None:
    with on_faulty_disk(store_path, clock, "disk") as (triggers, disk, _):
        once_at("trigger.noted", lambda: disk.fail("sync", error=errno.EIO))
        heard: list[str] = []
        try:
            with pytest.raises(StoreStopped):
                triggers.run(stop=threading.Event(), report=heard.append)
        finally:
            set_listener(None)
        assert heard == []
        assert [one.failures for one in triggers.list()] == [0], "it can still be looked at"


def test_a_flow_that_is_streamed_elsewhere_is_told_and_runs_when_it_is_free(
    app: ms.App, clock: VirtualClock
) -> None:
    declare(app, ms.gathered("orders", events=1), mode="stream")
    add(app, 1)
    app.topic("out_job", schema={"eur": int}).append([])
    stop, heard = threading.Event(), list[str]()
    streams = threading.Event()
    set_listener(lambda step: streams.set() if step == "flow.committed" else None)
    flow = app.read("orders").write("out_job").named("job")
    thread = threading.Thread(target=lambda: flow.stream(stop=stop))
    thread.start()
    try:
        assert streams.wait(60)
        assert app.triggers.run_due(report=heard.append) == 1
    finally:
        set_listener(None)
        stop.set()
        thread.join()
    assert "trigger job failed, and is tried again in 5 s" in heard[0]
    clock.advance("5s")
    assert app.triggers.run_due() == 1
    assert out(app) == [1]


# ---- flows --------------------------------------------------------------------------------------


def test_a_flow_that_gives_its_rows_to_nobody_is_told(app: ms.App) -> None:
    @app.trigger(ms.gathered("orders", events=1))
    def job() -> ms.Flow:
        return app.read("orders")

    add(app, 1)
    app.triggers.run_due()
    assert "gives its rows to nobody" in str(only(app).error)


@pytest.mark.parametrize("rows", [[], [1, 2]])
def test_a_flow_that_trains_a_model_has_an_end_without_a_sink(
    app: ms.App, clock: VirtualClock, rows: list[int]
) -> None:
    model = ms.Model("eur", linear_model.LinearRegression(), features=["eur"], target="paid")
    declare(app, ms.after("learned"), name="later")

    def learned() -> ms.Flow:
        return app.read("orders").with_columns(paid=ms.col("eur") * 2.0).fit(model)

    app.trigger(ms.every("1m"))(learned)
    add(app, *rows)
    assert app.triggers.run_due() == 0
    learned().named("learned").run()
    assert app.triggers.run_due() == 1
    clock.advance("1m")
    assert app.triggers.run_due() == 1
    assert app.triggers.run_due() == 1, "the end of that one"
    assert [(one.runs, one.error) for one in app.triggers.list()] == [(2, None), (1, None)]


def test_a_flow_of_another_store_runs_and_is_noted_behind_it(
    app: ms.App, clock: VirtualClock, tmp_path: Path
) -> None:
    with opened(tmp_path / "other.mill", clock) as other:
        add(other, 7)
        for mode in ("batch", "stream"):

            @app.trigger(ms.gathered("orders", events=1), mode=mode, name=mode)
            def job(mode: str = mode) -> ms.Flow:
                return other.read("orders").write(f"out_{mode}")

        add(app, 1)
        assert app.triggers.run_due() == 2
        assert app.triggers.run_due() == 0
        assert [out(other, mode) for mode in ("batch", "stream")] == [[7], [7]]
        assert [one.runs for one in app.triggers.list()] == [1, 1]


def test_a_topic_that_is_deleted_and_made_anew_gathers_from_its_beginning(app: ms.App) -> None:
    declare(app, ms.gathered("orders", events=3, within="1m"))
    add(app, 1, 2, 3)
    assert app.triggers.run_due() == 1
    app.topic("orders", schema={"eur": int}, partitions=2).delete()
    assert app.triggers.run_due() == 0
    app.topic("orders", schema={"eur": int}).append([{"eur": 4}, {"eur": 5}])
    assert app.triggers.run_due() == 0
    app.topic("orders", schema={"eur": int}).append([{"eur": 6}])
    assert app.triggers.run_due() == 1


def test_the_first_event_of_all_partitions_is_the_one_that_waits_longest(
    app: ms.App, clock: VirtualClock
) -> None:
    """What is deleted while somebody looks has no events: the topic, or those at that offset."""
    log = app.log_engine
    facts = LocalFacts(log, Listings(clock), now_us=clock.now_us(), anchor_us=0)
    assert facts.first_us("orders", [0, 0]) is None
    for partition, value in enumerate((1, 2)):
        app.topic("orders", schema={"eur": int}, partitions=2).append(
            {"eur": value}, partition=partition
        )
        clock.advance("1s")
    at_us = facts.now_us
    assert facts.first_us("orders", [0, 0]) == at_us
    assert facts.first_us("orders", [1, 0]) == at_us + 1_000_000
    assert facts.first_us("orders", [1, 1]) is None
    assert facts.first_us("orders", [5, 0]) is None
    assert facts.first_us("deleted", [0]) is None


def test_events_that_were_run_are_not_gathered_again_when_the_code_says_another_number(
    store_path: Path, clock: VirtualClock
) -> None:
    with opened(store_path, clock) as app:
        declare(app, ms.gathered("orders", events=2))
        add(app, 1, 2)
        assert app.triggers.run_due() == 1
    with opened(store_path, clock) as app:
        declare(app, ms.gathered("orders", events=1))
        assert app.triggers.run_due() == 0
        add(app, 3)
        assert app.triggers.run_due() == 1


# ---- declarations -------------------------------------------------------------------------------


def _with_argument(day: str) -> ms.Flow:
    raise AssertionError(day)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda app: app.trigger(ms.every("1m"))(_with_argument), "without arguments"),
        (lambda app: app.trigger(ms.every("1m"))(app.read("orders")), "without arguments"),
        (lambda app: app.trigger(ms.every("1m"))(lambda: None), "without a name"),
        (lambda app: app.trigger(ms.every("1m"), ms.every("60s")), "twice"),
        (
            lambda app: (declare(app, ms.after("job")), app.triggers.run_due()),
            "each other: job after job",
        ),
        (
            lambda app: (
                declare(app, ms.every("1m"), ms.after("c"), name="a"),
                declare(app, ms.after("a"), name="b"),
                declare(app, ms.after("b"), name="c"),
                app.triggers.run(stop=threading.Event()),
            ),
            "each other: a after c after b after a",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(
    app: ms.App, wrong: Callable[[ms.App], object], says: str
) -> None:
    with pytest.raises(ConfigurationError, match=says):
        wrong(app)


def test_a_flow_may_wait_for_several_that_wait_for_one(app: ms.App) -> None:
    """first ─┬─▶ left  ─┬─▶ last     no circle"""
    declare(app, ms.gathered("orders", events=1), name="first")
    declare(app, ms.after("first"), name="left")
    declare(app, ms.after("first"), name="right")
    declare(app, ms.after("left"), ms.after("right"), name="last")
    add(app, 1)
    assert app.triggers.run_due() == 4
    assert app.triggers.run_due() == 0


def test_many_that_wait_for_many_are_looked_at_once(app: ms.App) -> None:
    """Each waits for both of the row before: there are 2⁵⁰ ways through, and no circle."""
    for row in range(50):
        before = [ms.after(f"{side}{row - 1}") for side in "ab"] if row else [ms.every("1h")]
        for side in "ab":
            declare(app, *before, name=f"{side}{row}")
    assert app.triggers.run_due() == 0
