"""Flows that run by themselves: each condition, what a kill leaves, and one process at a time."""

from __future__ import annotations

import queue
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import millstream as ms
from millstream.engines.local import flow_triggers
from millstream.engines.local.flow_file_intake import SETTLED_US
from millstream.engines.local.flow_trigger_notes import BACKOFF
from millstream.primitives.backoff import Backoff
from millstream.primitives.errors import ConfigurationError
from millstream.primitives.telemetry import set_listener
from millstream.store import signals
from millstream.store.locks import FileLock
from millstream.testing import VirtualClock
from tests.triggers_kit import add, declare, once_at, only, opened, out, put


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def app(store_path: Path, clock: VirtualClock) -> Iterator[ms.App]:
    with opened(store_path, clock) as app:
        yield app


def test_an_interval_runs_once_each_time_and_once_for_all_that_were_missed(
    app: ms.App, clock: VirtualClock
) -> None:
    """first look ──┊──10m──▶ run ──┊──10m──10m──10m──▶ one run"""
    declare(app, ms.every("10m"))
    add(app, 1)
    assert app.triggers.run_due() == 0
    clock.advance("9m")
    assert app.triggers.run_due() == 0
    clock.advance("1m")
    assert app.triggers.run_due() == 1
    assert app.triggers.run_due() == 0
    clock.advance("35m")
    assert app.triggers.run_due() == 1
    assert app.triggers.run_due() == 0
    clock.advance("5m")  # the multiple of the first look, not of the run
    assert app.triggers.run_due() == 1
    assert only(app).runs == 3


def test_cron_follows_the_wall_clock(app: ms.App, clock: VirtualClock) -> None:
    declare(app, ms.cron("0 3 * * *", tz="Europe/Berlin"))
    assert app.triggers.run_due() == 0
    due_us = only(app).due_us
    assert due_us is not None
    clock.jump(due_us - clock.now_us() - 1)
    assert app.triggers.run_due() == 0
    clock.jump(1)
    assert app.triggers.run_due() == 1
    assert (only(app).due_us, only(app).last_us) == (due_us + 86_400_000_000, due_us)


def test_files_count_once_they_were_left_alone_and_again_when_they_change(
    app: ms.App, clock: VirtualClock, tmp_path: Path
) -> None:
    inbox = tmp_path / "inbox"

    @app.trigger(ms.arrival(f"{inbox}/*.csv"))
    def load() -> ms.Flow:
        return app.read(f"{inbox}/*.csv").write(f"{tmp_path}/all.csv")

    assert app.triggers.run_due() == 0
    put(clock, inbox / "a.csv", "n\n1\n", age_us=SETTLED_US - 1)
    put(clock, inbox / "_b.csv", "n\n1\n")
    put(clock, inbox / "c.txt", "n\n1\n")
    assert app.triggers.run_due() == 0
    clock.jump(1)
    assert app.triggers.run_due() == 1
    assert (tmp_path / "all.csv").read_text() == "n\n1\n"
    assert app.triggers.run_due() == 0
    clock.advance("1s")
    put(clock, inbox / "a.csv", "n\n5\n")
    assert app.triggers.run_due() == 1
    put(clock, inbox / "d.csv", "n\n2\n")
    assert app.triggers.run_due() == 1
    assert sorted((tmp_path / "all.csv").read_text().split()[1:]) == ["2", "5"]
    (inbox / "d.csv").unlink()
    assert app.triggers.run_due() == 0


def test_files_that_are_there_at_first_have_arrived(
    app: ms.App, clock: VirtualClock, tmp_path: Path
) -> None:
    path = put(clock, tmp_path / "a.csv", "n\n1\n")

    @app.trigger(ms.arrival(path))
    def load() -> ms.Flow:
        return app.read(path).write("loaded")

    assert app.triggers.run_due() == 1
    assert app.triggers.run_due() == 0


@pytest.mark.parametrize(
    "end",
    [
        lambda flow: flow.run(),
        lambda flow: flow.stream(until="end"),
        lambda flow: flow.stream(until="now", shared=True),
    ],
)
def test_a_flow_runs_after_another_has_ended(
    app: ms.App, end: Callable[[ms.Flow], ms.RunReport]
) -> None:
    declare(app, ms.after("ingest"))
    flow = app.read("orders").write("copied").named("ingest")
    flow.run()  # before the first look: not waited for
    assert app.triggers.run_due() == 0
    end(flow)
    assert app.triggers.run_due() == 1
    assert app.triggers.run_due() == 0
    flow.collect()  # shows rows to somebody, and ends nothing
    assert app.triggers.run_due() == 0


def test_a_stream_that_was_stopped_has_not_ended(app: ms.App) -> None:
    declare(app, ms.after("ingest"))
    assert app.triggers.run_due() == 0
    told = threading.Event()
    told.set()
    app.read("orders").write("copied").named("ingest").stream(until="end", stop=told)
    assert app.triggers.run_due() == 0


def test_one_that_is_new_waits_for_what_others_do_in_the_same_look(app: ms.App) -> None:
    declare(app, ms.gathered("orders", events=1), name="first")
    declare(app, ms.after("first"), name="second")
    add(app, 1)
    assert app.triggers.run_due() == 2


@pytest.mark.parametrize(("mode", "runs"), [("stream", 0), ("batch", 1)])
def test_a_stream_that_is_stopped_may_not_have_come_to_its_end(
    app: ms.App, mode: str, runs: int
) -> None:
    declare(app, ms.gathered("orders", events=1), mode=mode)
    add(app, 1)
    stop = threading.Event()
    set_listener(lambda step: stop.set() if step.startswith("flow.") else None)
    try:
        app.triggers.run(stop=stop)
    finally:
        set_listener(None)
    assert only(app).runs == runs
    assert app.triggers.run_due() == 1 - runs
    assert out(app) == [1]


@pytest.mark.parametrize("mode", ["batch", "stream"])
def test_a_note_is_not_stored_over_that_of_another_process(app: ms.App, mode: str) -> None:
    """Nothing of a batch either: what it was due for has been run."""
    declare(app, ms.gathered("orders", events=1), mode=mode)
    app.topic("out_job", schema={"eur": int}).append([])
    add(app, 1)
    store = app.log_engine.store

    def other() -> None:
        params = {"name": "job", "turn": 0, "seen": "{}"}
        assert store.write(lambda tx: tx.run("flows/trigger_see", params))

    heard: list[str] = []
    once_at("trigger.noted", other)
    try:
        assert app.triggers.run_due(report=heard.append) == 1
    finally:
        set_listener(None)
    assert (only(app).runs, only(app).failures) == (0, 0)
    assert out(app) == ([] if mode == "batch" else [1])
    assert "another process has run it meanwhile" in heard[0]
    assert "tried again" not in heard[0]


def test_what_is_due_when_it_is_told_to_stop_is_left(app: ms.App) -> None:
    declare(app, ms.gathered("orders", events=1), name="first")
    declare(app, ms.gathered("orders", events=1), name="second")
    add(app, 1)
    stop = threading.Event()
    app.triggers.run(stop=stop, report=lambda line: stop.set())
    assert [one.runs for one in app.triggers.list()] == [1, 0]


def test_triggers_of_a_chain_run_in_one_look_and_only_after_a_success(
    app: ms.App, clock: VirtualClock
) -> None:
    is_broken = True

    @app.trigger(ms.gathered("orders", events=1))
    def first() -> ms.Flow:
        if is_broken:
            raise RuntimeError("no connection")
        return app.read("orders").write("firsts")

    declare(app, ms.after("first"), name="second")
    add(app, 1)
    heard: list[str] = []
    assert app.triggers.run_due(report=heard.append) == 1
    assert ["second" in line for line in heard] == [False]
    is_broken = False
    clock.advance("5s")
    assert app.triggers.run_due() == 2
    assert [one.runs for one in app.triggers.list()] == [1, 1]


def test_events_gather_by_number_and_by_time(app: ms.App, clock: VirtualClock) -> None:
    """orders   •• ┊ • ──▶ run at three ┊ • ──5m──▶ run of the one"""
    declare(app, ms.gathered("orders", events=3, within="5m"), mode="stream")
    assert app.triggers.run_due() == 0
    add(app, 1, 2)
    assert app.triggers.run_due() == 0
    add(app, 3)
    assert app.triggers.run_due() == 1
    assert out(app) == [1, 2, 3]
    clock.advance("1h")
    assert app.triggers.run_due() == 0
    add(app, 4)
    assert only(app).due_us == clock.now_us() + 300_000_000
    clock.advance("4m")
    add(app, 5)
    assert app.triggers.run_due() == 0
    clock.advance("1m")
    assert app.triggers.run_due() == 1
    assert out(app) == [1, 2, 3, 4, 5]


def test_a_topic_may_come_later(app: ms.App) -> None:
    @app.trigger(ms.gathered("new", events=1, within="1s"))
    def job() -> ms.Flow:
        return app.read("new").write("copied")

    assert app.triggers.run_due() == 0
    app.topic("new", schema={"n": int}).append([{"n": 1}])
    assert app.triggers.run_due() == 1


def test_what_comes_while_a_run_goes_on_counts_for_the_next(app: ms.App) -> None:
    @app.trigger(ms.gathered("orders", events=1), mode="stream")
    def job() -> ms.Flow:
        return app.read("orders").write("out_job")

    add(app, 1)
    once_at("flow.committed", lambda: add(app, 2))
    try:
        assert app.triggers.run_due() == 1
    finally:
        set_listener(None)
    assert out(app) == [1]
    assert app.triggers.run_due() == 1
    assert out(app) == [1, 2]


def test_any_of_several_conditions_is_enough_and_a_new_one_begins_to_wait(
    store_path: Path, clock: VirtualClock
) -> None:
    def declared(*conditions: object) -> ms.App:
        app = opened(store_path, clock)
        declare(app, *conditions)
        return app

    with declared(ms.gathered("orders", events=2)) as app:
        add(app, 1, 2)
        assert app.triggers.run_due() == 1
    clock.advance("1h")
    with declared(ms.gathered("orders", events=2), ms.every("10m")) as app:
        assert app.triggers.run_due() == 0
        assert only(app).due_us == clock.now_us() + 600_000_000
        add(app, 3, 4)
        assert app.triggers.run_due() == 1
        clock.advance("10m")
        assert app.triggers.run_due() == 1
        assert only(app).runs == 3


def test_a_run_that_fails_is_told_and_tried_again_ever_later(
    app: ms.App, clock: VirtualClock
) -> None:
    calls: list[int] = []

    @app.trigger(ms.gathered("orders", events=1))
    def job() -> ms.Flow:
        calls.append(clock.now_us())
        if len(calls) < 4:
            raise ValueError("the disk is away")
        return app.read("orders").write("out_job")

    add(app, 1)
    heard: list[str] = []
    for failures in (1, 2, 3):
        assert app.triggers.run_due(report=heard.append) == 1
        status = only(app)
        assert (status.failures, status.error) == (failures, "ValueError: the disk is away")
        wait_us = BACKOFF.bound_us(failures)
        assert status.due_us == clock.now_us() + wait_us
        clock.jump(wait_us - 1)
        assert app.triggers.run_due(report=heard.append) == 0
        clock.jump(1)
    assert heard[0] == "trigger job failed, and is tried again in 5 s: ValueError: the disk is away"
    assert app.triggers.run_due() == 1
    status = only(app)
    assert (status.failures, status.error, status.runs) == (0, None, 1)
    assert out(app) == [1]


def test_what_is_no_flow_is_told(app: ms.App) -> None:
    @app.trigger(ms.gathered("orders", events=1))
    def job() -> ms.Flow:
        return 5  # type: ignore[return-value]

    add(app, 1)
    app.triggers.run_due()
    assert "the function gave a int" in str(only(app).error)


def test_of_two_processes_each_trigger_is_run_by_one(app: ms.App, store_path: Path) -> None:
    """What the other has not, this one runs: it may be of an app that the other does not know."""
    declare(app, ms.gathered("orders", events=1), name="theirs")
    declare(app, ms.gathered("orders", events=1), name="ours")
    add(app, 1)
    other = FileLock(store_path / "run" / "trigger-02023f4e161e538e.lock")
    assert other.try_acquire()
    heard: list[str] = []
    assert app.triggers.run_due(report=heard.append) == 1
    assert heard[-1] == "run by another process, until that ends: theirs"
    assert out(app, "ours") == [1]
    other.close()
    assert app.triggers.run_due() == 1


def test_a_report_that_nobody_hears_is_no_failure_of_the_run(app: ms.App) -> None:
    declare(app, ms.gathered("orders", events=1))
    add(app, 1)

    def deaf(line: str) -> None:
        raise BrokenPipeError(line)

    with pytest.raises(BrokenPipeError, match="flow job: batch"):
        app.triggers.run_due(report=deaf)
    assert (only(app).runs, only(app).failures) == (1, 0)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda app: app.trigger(), "without a condition"),
        (lambda app: app.trigger("10m"), r"ms\.every"),
        (lambda app: app.trigger(ms.every("1m"), mode="both"), "mode='both'"),
        (lambda app: app.trigger(ms.gathered("orders")), "neither how many nor how long"),
        (lambda app: app.trigger(ms.gathered("orders", events=0)), "events=0"),
        (lambda app: app.trigger(ms.gathered("orders", events=1.5)), r"events=1\.5"),
        (lambda app: app.trigger(ms.gathered("orders", within="0s")), "above zero"),
        (lambda app: app.trigger(ms.arrival("")), r"arrival\(''\)"),
        (lambda app: app.trigger(ms.after(7)), r"after\(7\)"),
        (lambda app: (declare(app, ms.every("1m")), declare(app, ms.every("1m"))), "two triggers"),
        (lambda app: app.triggers.run_due(), "no trigger"),
    ],
)
def test_what_makes_no_sense_is_refused(
    app: ms.App, wrong: Callable[[ms.App], object], says: str
) -> None:
    with pytest.raises(ConfigurationError, match=says):
        wrong(app)


def test_a_place_that_cannot_be_looked_at_is_a_failure_and_not_the_end(
    app: ms.App, clock: VirtualClock
) -> None:
    declare(app, ms.arrival("nowhere://files/*.csv"), name="remote")
    declare(app, ms.gathered("orders", events=1), name="near")
    add(app, 1)
    heard: list[str] = []
    assert app.triggers.run_due(report=heard.append) == 1
    assert re.match(r"trigger remote failed, and is tried again in 5 s: .*nowhere", heard[0])
    assert out(app, "near") == [1]
    assert app.triggers.run_due(report=heard.append) == 0
    assert len([line for line in heard if "remote" in line]) == 1, "it waits before it looks again"
    remote, near = app.triggers.list()
    assert (remote.failures, remote.due_us, near.failures) == (1, None, 0)
    assert "nowhere" in str(remote.error)


def ingest(app: ms.App) -> None:
    app.read("others").write("copied").named("ingest").run()


@pytest.mark.parametrize(
    ("condition", "happen"),
    [(ms.gathered("orders", events=1), lambda app: add(app, 1)), (ms.after("ingest"), ingest)],
)
def test_what_makes_a_flow_due_wakes_the_process_that_waits(
    app: ms.App,
    monkeypatch: pytest.MonkeyPatch,
    condition: object,
    happen: Callable[[ms.App], None],
) -> None:
    """It would look again only after ten minutes."""
    for module in (signals, flow_triggers):
        monkeypatch.setattr(module, "WAIT_FALLBACK_S", 600.0)
    app.topic("others", schema={"eur": int}).append([])
    declare(app, condition)
    assert app.triggers.run_due() == 0
    stop, lines = threading.Event(), queue.SimpleQueue[str]()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(app.triggers.run, stop=stop, report=lines.put)
        try:
            for _ in range(5):
                happen(app)
                assert "flow job" in lines.get(timeout=30)
        finally:
            stop.set()
            add(app, 1)
            ingest(app)
        running.result(30)


def test_a_time_wakes_it_too_and_so_does_that_of_another_try(
    store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the machine's clock; without a time it would look again only after ten minutes."""
    for module in (signals, flow_triggers):
        monkeypatch.setattr(module, "WAIT_FALLBACK_S", 600.0)
    monkeypatch.setattr(flow_triggers, "BACKOFF", Backoff.constant("20ms"))
    stop, heard = threading.Event(), list[str]()
    with ms.App("shop", store=store_path, durability="process") as app:
        app.topic("orders", schema={"eur": int}).append([{"eur": 1}])

        @app.trigger(ms.every("30ms"))
        def job() -> ms.Flow:
            if len(heard) % 2:
                raise ValueError("every other time")
            return app.read("orders").write("copied")

        def report(line: str) -> None:
            heard.append(line.split()[0])
            if len(heard) == 6:
                stop.set()

        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(app.triggers.run, stop=stop, report=report)
            try:
                running.result(30)
            finally:
                stop.set()
                ended = app.log_engine.store
                ended.write(lambda tx: tx.wake(flow_triggers.FINISHED))
    assert heard == ["flow", "trigger"] * 3
