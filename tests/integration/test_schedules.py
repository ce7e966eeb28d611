"""Schedules in a real store: what is declared, fired, missed, paused; killed at each step; raced for by processes."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import millstream as ms
from millstream.engines.local.task_schedules import (
    SCHEDULES_PER_LOOK_MAX,
    LocalSchedules,
    ScheduleDuty,
)
from millstream.primitives.errors import ConfigurationError, UnknownTask
from millstream.primitives.schedule_times import TimesLike
from millstream.store.catalog import connect
from millstream.tasks.schedule import NAME_LENGTH_MAX, SCHEDULES_MAX
from millstream.tasks.schedule_missed import CAUGHT_UP_RUNS_MAX, Missed, firing
from millstream.tasks.task import Task
from millstream.testing import VirtualClock, crash

PATIENCE_S = 60.0
STEPS = [
    "schedule.decided",
    "schedule.moved",
    "task.inserted",
    "commit.before",
    "commit.visible",
    "schedule.fired",
]


def note(text: str = "") -> str:
    return text


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def app(store_path: Path, clock: VirtualClock) -> Iterator[ms.App]:
    with ms.App("shop", store=store_path, durability="process", clock=clock) as opened:
        yield opened


@pytest.fixture
def task(app: ms.App) -> Task[[str], str]:
    return app.task(name="note")(note)


def tasks_of(app: ms.App) -> int:
    return sum(app.tasks_engine.depth().values())


def redeclared(app: ms.App, *declared: tuple[str, TimesLike]) -> ms.App:
    """The app after a deployment that declares other schedules."""
    app.close()
    other = ms.App("shop", store=app.store_path, durability="process", clock=app._clock)
    task = other.task(name="note")(note)
    for name, when in declared:
        other.schedule(name, task.s("x"), when)
    return other


# ---- what is declared ---------------------------------------------------------------------------


def test_a_run_is_a_task_with_the_arguments_and_options_of_its_call(
    app: ms.App, clock: VirtualClock, task: Task[[str], str]
) -> None:
    call = task.s("a").set(queue="slow", priority=9, countdown=30)
    app.schedule("one", call, ms.every("1m"))
    assert str(app.schedules.synchronise()) == "added: one"
    clock.advance("1m")
    assert app.schedules_engine.run_due() == 1
    run = app.tasks.result(f"one:{clock.now_us()}").status()
    assert (run.queue, run.priority, run.state) == ("slow", 9, "scheduled")
    assert run.due_us == clock.now_us() + 30_000_000
    assert app.schedules_engine.run_due() == 0


def test_what_does_not_change_is_left_alone_and_what_does_begins_anew(
    app: ms.App, clock: VirtualClock, task: Task[[str], str]
) -> None:
    app.schedule("kept", task.s("x"), ms.every("10m"))
    app.schedule("changed", task.s("x"), ms.every("10m"))
    app.schedule("gone", task.s("x"), ms.every("10m"))
    app.schedules.synchronise()
    clock.advance("9m")
    other = redeclared(
        app, ("kept", ms.every("10m")), ("changed", ms.every("5m")), ("new", ms.every("1h"))
    )
    with other:
        assert str(other.schedules.synchronise()) == "added: new; changed: changed; retired: gone"
        assert not other.schedules.synchronise()
        clock.advance("1m")
        assert other.schedules_engine.run_due() == 1
        known = {one.name: one for one in other.schedules.list()}
        assert known["kept"].runs == 1
        assert known["changed"].next_us == clock.now_us() + 4 * 60_000_000
        assert known["gone"].retired_us is not None
        assert not known["gone"].is_active


def test_a_retired_schedule_comes_back_from_now_on(
    app: ms.App, clock: VirtualClock, task: Task[[str], str]
) -> None:
    app.schedule("one", task.s("x"), ms.every("1m"))
    app.schedules.synchronise()
    with redeclared(app) as without:
        without.schedules.synchronise()
        clock.advance("1h")
        assert without.schedules_engine.run_due() == 0
        with redeclared(without, ("one", ms.every("1m"))) as again:
            again.schedules.synchronise()
            assert again.schedules_engine.run_due() == 0
            clock.advance("1m")
            assert again.schedules_engine.run_due() == 1


def test_two_apps_of_one_store_do_not_touch_each_other(
    app: ms.App, clock: VirtualClock, task: Task[[str], str]
) -> None:
    app.schedule("one", task.s("x"), ms.every("1m"))
    app.schedules.synchronise()
    with ms.App("other", store=app.store_path, durability="process", clock=clock) as other:
        assert not other.schedules.synchronise()
        other.schedule("one", other.task(name="note")(note).s("y"), ms.every("1m"))
        with pytest.raises(ConfigurationError, match="there already"):
            other.schedules.synchronise()


def test_a_schedule_that_is_stored_by_hand_stays(
    app: ms.App, clock: VirtualClock, task: Task[[str], str]
) -> None:
    app.schedules.store("customer 7", task.s("x"), ms.every("1m"))
    app.schedules.store("customer 7", task.s("x"), ms.every("2m"))
    assert not app.schedules.synchronise()
    clock.advance("2m")
    assert app.schedules_engine.run_due() == 1
    app.schedules.remove("customer 7")
    assert app.schedules.list() == []


@pytest.mark.parametrize(
    "attempt",
    [
        lambda app, task: app.schedule("", task.s(""), ms.every("1m")),
        lambda app, task: app.schedule("n" * (NAME_LENGTH_MAX + 1), task.s(""), ms.every("1m")),
        lambda app, task: app.schedule("n", task.s(""), "5m"),
        lambda app, task: app.schedule("n", task.s(""), datetime(2030, 1, 1, 0, 0)),  # noqa: DTZ001
        lambda app, task: app.schedule("n", task.s(""), ms.every("1m"), missed="some"),
        lambda app, task: app.schedule("n", task.s("").set(task_id="x"), ms.every("1m")),
        lambda app, task: app.schedule("n", task.s("") | task.s(), ms.every("1m")),
        lambda app, task: app.task(schedule="daily"),
        lambda app, task: app.schedule(
            "n", task.s("").set(eta=datetime(2030, 1, 1, tzinfo=UTC)), ms.every("1m")
        ),
        lambda app, task: ms.every("9ms"),
        lambda app, task: ms.cron("0 9 * *"),
        lambda app, task: ms.cron("0 0 30 2 *"),
        lambda app, task: ms.cron("0 9 * * *", tz="Europe/Nowhere"),
    ],
)
def test_what_cannot_be_scheduled_is_refused(
    app: ms.App, task: Task[[str], str], attempt: Callable[[ms.App, Task[[str], str]], None]
) -> None:
    with pytest.raises(ms.MillstreamError) as refused:
        attempt(app, task)
    assert isinstance(refused.value, ConfigurationError | ms.errors.SchemaError)


def test_a_task_with_a_schedule_of_its_own(app: ms.App, clock: VirtualClock) -> None:
    @app.task(name="heartbeat", schedule=ms.every("1m"))
    def heartbeat(loud: bool = False) -> None: ...

    assert app.schedules.synchronise().added == ("heartbeat",)
    clock.advance("1m")
    assert app.schedules_engine.run_due() == 1

    @app.task(name="hungry", schedule=ms.cron("@daily"))
    def hungry(food: str) -> None: ...

    with pytest.raises(ms.errors.TaskArgumentError):
        app.schedules.synchronise()
    app.schedule("heartbeat", heartbeat.s(), ms.every("1m"))
    with pytest.raises(ConfigurationError, match="two schedules"):
        app.schedules.synchronise()


def test_one_name_is_one_schedule(app: ms.App, task: Task[[str], str]) -> None:
    app.schedule("one", task.s("x"), ms.every("1m"))
    with pytest.raises(ConfigurationError, match="two schedules"):
        app.schedule("one", task.s("x"), ms.every("1m"))


def test_there_is_a_limit(app: ms.App, task: Task[[str], str]) -> None:
    for number in range(SCHEDULES_MAX):
        app.schedule(f"s{number}", task.s("x"), ms.every("1m"))
    with pytest.raises(ConfigurationError, match="10,000 schedules"):
        app.schedule("more", task.s("x"), ms.every("1m"))


# ---- one-off, missed, clocks --------------------------------------------------------------------


def test_once(app: ms.App, clock: VirtualClock, task: Task[[str], str]) -> None:
    moment = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=clock.now_us() + 60_000_000)
    app.schedule("once", task.s("x"), moment)
    app.schedules.synchronise()
    clock.advance("30s")
    assert app.schedules_engine.run_due() == 0
    clock.advance("1d")
    assert app.schedules_engine.run_due() == 1
    (status,) = app.schedules.list()
    assert status.next_us is None
    assert not app.schedules.synchronise()
    clock.advance("1d")
    assert app.schedules_engine.run_due() == 0


@pytest.mark.parametrize(("missed", "runs"), [("skip", 0), ("latest", 1), ("all", 7)])
def test_a_week_without_workers(
    app: ms.App, clock: VirtualClock, task: Task[[str], str], missed: str, runs: int
) -> None:
    app.schedule("daily", task.s("x"), ms.cron("0 9 * * *", tz="Europe/Berlin"), missed=missed)
    app.schedules.synchronise()
    clock.advance("7d")
    assert app.schedules_engine.run_due() == runs
    (status,) = app.schedules.list()
    assert (status.runs, status.skipped) == (runs, 7 - runs)
    clock.advance("1d")
    assert app.schedules_engine.run_due() in (0, 1)  # Nine o'clock is ten hours before the look.


@pytest.mark.parametrize("when", [ms.every("1s"), ms.cron("* * * * *")])
def test_a_long_absence_is_caught_up_with_to_a_bound(when: TimesLike) -> None:
    times = when
    assert not isinstance(times, datetime)
    year_us = 365 * 86_400_000_000
    decided = firing(
        times, Missed.ALL, next_us=60_000_000, anchor_us=0, now_us=60_000_000 + year_us
    )
    assert len(decided.runs) == CAUGHT_UP_RUNS_MAX
    assert decided.runs[-1] == 60_000_000 + year_us
    assert decided.next_us is not None
    assert decided.next_us > decided.runs[-1]


def test_a_clock_that_was_wrong_is_set_right_by_resume(
    app: ms.App, clock: VirtualClock, task: Task[[str], str]
) -> None:
    app.schedule("one", task.s("x"), ms.every("1m"))
    app.schedules.synchronise()
    clock.jump(365 * 86_400_000_000)
    assert app.schedules_engine.run_due() == 1
    clock.jump(-365 * 86_400_000_000)
    clock.advance("1h")
    assert app.schedules_engine.run_due() == 0  # It waits until its time has come again.
    app.schedules.resume("one")
    clock.advance("1m")
    assert app.schedules_engine.run_due() == 1


def test_many_that_are_due_at_once_take_several_looks(
    app: ms.App, clock: VirtualClock, task: Task[[str], str]
) -> None:
    for number in range(SCHEDULES_PER_LOOK_MAX + 1):
        app.schedule(f"s{number}", task.s("x"), ms.every("1m"))
    app.schedules.synchronise()
    clock.advance("1m")
    looks = [app.schedules_engine.run_due() for _ in range(3)]
    assert looks == [SCHEDULES_PER_LOOK_MAX, 1, 0]


# ---- control ------------------------------------------------------------------------------------


def test_pause_resume_trigger(app: ms.App, clock: VirtualClock, task: Task[[str], str]) -> None:
    app.schedule("one", task.s("x"), ms.every("1m"), missed="all")
    app.schedules.synchronise()
    app.schedules.pause("one")
    clock.advance("1h")
    assert app.schedules_engine.run_due() == 0
    triggered = app.schedules.trigger("one")
    assert app.tasks.result(triggered).state == "queued"
    app.schedules.resume("one")
    assert app.schedules_engine.run_due() == 0
    clock.advance("1m")
    assert app.schedules_engine.run_due() == 1
    for attempt in (app.schedules.pause, app.schedules.resume, app.schedules.trigger):
        with pytest.raises(UnknownTask):
            attempt("none")


def test_a_zone_that_is_unknown_here_pauses_the_schedule_and_says_why(
    app: ms.App, clock: VirtualClock, task: Task[[str], str]
) -> None:
    app.schedule("bad", task.s("x"), ms.cron("* * * * *"))
    app.schedule("good", task.s("x"), ms.cron("* * * * *"))
    app.schedules.synchronise()
    catalog = app.tasks_engine.store.directory.catalog
    app.close()
    connection = connect(catalog, vfs=None)
    connection.execute(
        "UPDATE schedules SET times = replace(times, 'UTC', 'No/Where') WHERE name = 'bad'"
    )
    connection.close()
    clock.advance("1m")
    assert app.schedules_engine.run_due() == 1
    bad, good = app.schedules.list()
    assert "No/Where" in (bad.why or "")
    assert good.runs == 1


# ---- crashes and races --------------------------------------------------------------------------


def shop(path: str, now_us: int) -> ms.App:
    app = ms.App("shop", store=path, durability="process", clock=VirtualClock(now_us))
    app.schedule("one", app.task(name="note")(note).s("x"), ms.every("1m"), missed="all")
    return app


def run_due_once(report: crash.Report, path: str, now_us: int) -> None:
    with shop(path, now_us) as app:
        report(app.schedules_engine.run_due())


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_each_step_no_run_is_lost_or_comes_twice(store_path: Path, step: str) -> None:
    clock = VirtualClock()
    with shop(str(store_path), clock.now_us()) as app:
        app.schedules.synchronise()
    later_us = clock.now_us() + 3 * 60_000_000
    killed = crash.run(run_due_once, str(store_path), later_us, kill_at=crash.KillAt(step))
    assert killed.killed, killed.error
    assert crash.run(run_due_once, str(store_path), later_us).error == ""
    with shop(str(store_path), later_us) as app:
        (status,) = app.schedules.list()
        assert status.runs == tasks_of(app) == 3


def race(report: crash.Report, path: str, now_us: int, looks: int) -> None:
    with shop(path, now_us) as app:
        clock = app._clock
        assert isinstance(clock, VirtualClock)
        report("ready")
        runs = 0
        for _ in range(looks):
            clock.advance("30s")
            runs += app.schedules_engine.run_due()
        report(runs)


def test_processes_that_all_believe_in_their_duty_do_not_run_anything_twice(
    store_path: Path,
) -> None:
    clock = VirtualClock()
    with shop(str(store_path), clock.now_us()) as app:
        app.schedules.synchronise()
    looks = 200
    racers = [crash.start(race, str(store_path), clock.now_us(), looks) for _ in range(3)]
    done = [racer.wait() for racer in racers]
    assert [one.error for one in done] == ["", "", ""]
    with shop(str(store_path), clock.now_us()) as app:
        assert sum(one.reports[-1] for one in done) == tasks_of(app) == looks // 2


def hold_duty(report: crash.Report, path: str) -> None:
    app = ms.App("shop", store=path, durability="process")
    with app, ScheduleDuty(app.tasks_engine.store, report=report):
        report("ready")
        threading.Event().wait(PATIENCE_S)


def runs_after(app: ms.App, runs: int) -> int:
    """Wait until there are more runs than that; return how many."""
    with app.tasks_engine.store.waiter("tasks:default") as waiter:
        for _ in range(int(PATIENCE_S)):
            waiter.arm()
            (status,) = app.schedules.list()
            if status.runs > runs:
                return status.runs
            waiter.wait(None)
    raise AssertionError(f"still {runs} runs")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_another_process_takes_over(store_path: Path, how: signal.Signals) -> None:
    with ms.App("shop", store=store_path, durability="process") as app:
        app.schedules.store("one", app.task(name="note")(note).s("x"), ms.every("50ms"))
        first = crash.start(hold_duty, str(store_path))
        assert first.next_report() == "ready"
        seen = runs_after(app, 0)
        second = crash.start(hold_duty, str(store_path))
        assert second.next_report() == "ready"
        os.kill(first.pid, how)
        seen = runs_after(app, runs_after(app, seen + 1))
        os.kill(first.pid, signal.SIGCONT) if how is signal.SIGSTOP else None
        seen = runs_after(app, runs_after(app, seen))
        for process in (first, second):
            process.kill()
        (status,) = app.schedules.list()
        assert status.runs == tasks_of(app)


def test_a_change_wakes_the_one_who_sleeps_until_next_year(store_path: Path) -> None:
    with ms.App("shop", store=store_path, durability="process") as app:
        task = app.task(name="note")(note)
        app.schedules.store("one", task.s("x"), ms.cron("0 0 1 1 *"))
        told: list[str] = []
        with ScheduleDuty(app.tasks_engine.store, report=told.append):
            app.schedules.store("one", task.s("x"), ms.every("10ms"))
            runs_after(app, 0)
        assert told == []


def test_a_store_that_is_closed_ends_the_duty_in_words(store_path: Path) -> None:
    app = ms.App("shop", store=store_path, durability="process")
    told: list[str] = []
    duty = ScheduleDuty(app.tasks_engine.store, report=told.append)
    duty.start()
    store = app.tasks_engine.store
    store._closed = True
    duty._waiter.interrupt()  # type: ignore[union-attr]
    duty._thread.join(PATIENCE_S)
    store._closed = False
    duty.stop()
    assert "the store is closed" in told[0]
    assert LocalSchedules(store).list() == []
    app.close()
