"""The test kit that users get: what was sent, and running it here."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

import millstream as ms
from millstream.testing import tasks as kit
from millstream.testing.tasks import TaskTest

pytest_plugins = ["millstream.testing.plugin"]
Take = Callable[..., TaskTest]


@pytest.fixture
def app(tmp_path: Path) -> ms.App:
    return ms.App("shop", store=tmp_path / "never.mill")


def test_nothing_runs_before_it_is_drained(app: ms.App, millstream_tasks: Take) -> None:
    @app.task(queue="mail")
    def send(to: str, copies: int = 1) -> str:
        return to * copies

    @app.task
    def sign_up(name: str) -> None:
        send.apply_async((name,), {"copies": 2}, priority=9)

    tasks = millstream_tasks(app)
    result = sign_up.delay("ann")
    tasks.assert_enqueued(sign_up, "ann", times=1)
    tasks.refute_enqueued(send)
    with pytest.raises(ms.errors.ResultTimeout, match="drain"):
        result.get(5)
    assert tasks.drain() == 2
    assert result.successful()
    (message,) = tasks.assert_enqueued(send, to="ann", copies=2, queue="mail", priority=9)
    assert send.result(message.id).get(0) == "annann"
    with pytest.raises(AssertionError, match=r"send\(to='ann', copies=2\) in 'mail'"):
        tasks.assert_enqueued(send, "bob")
    assert not Path(app.store_path).exists()


def test_inline_runs_at_once(app: ms.App, millstream_tasks: Take) -> None:
    @app.task
    async def double(n: int) -> int:
        return 2 * n

    @app.task
    def both(n: int) -> list[int]:
        return [double.delay(n).get(0), double.delay(n + 1).get(0)]

    millstream_tasks(app, mode="inline")
    assert double.apply_async((4,), countdown=3600).get(0) == 8
    assert both.delay(1).get(0) == [2, 4]

    @app.task
    def plain(n: int) -> int:
        return n

    assert [one.get(0) for one in plain.map([1, 2])] == [1, 2]


def test_retries_etas_and_rates_take_no_real_time(app: ms.App, millstream_tasks: Take) -> None:
    seen: list[int] = []

    @app.task(retries=3, backoff=ms.Backoff.constant("1h"), rate_limit="1/m")
    def flaky(n: int) -> int:
        seen.append(n)
        if len(seen) < 3:
            raise OSError("no line")
        return n

    tasks = millstream_tasks(app)
    before_us = tasks.clock.now_us()
    result = flaky.apply_async((1,), countdown=timedelta(days=1))
    assert tasks.drain(wait=False) == 0
    assert tasks.drain() == 3
    assert result.get(0) == 1
    assert tasks.clock.now_us() - before_us == 26 * 3_600_000_000
    assert [one.error for one in result.attempts()] == ["no line"] * 2


def test_what_was_not_stored_was_not_sent(app: ms.App, millstream_tasks: Take) -> None:
    @app.task(unique=True)
    def sync(n: int) -> None: ...

    tasks = millstream_tasks(app)
    assert sync.delay(1).id == sync.delay(1).id
    tasks.assert_enqueued(sync, 1, times=1)


def test_a_task_without_end_is_an_error(
    app: ms.App, millstream_tasks: Take, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kit, "ATTEMPTS_MAX", 50)

    @app.task
    def again() -> None:
        again.delay()

    tasks = millstream_tasks(app)
    again.delay()
    with pytest.raises(ms.errors.ConfigurationError, match="still tasks are left"):
        tasks.drain()
    with pytest.raises(ms.errors.ConfigurationError, match="no mode"):
        millstream_tasks(app, mode="eager")


def test_the_app_gets_its_tasks_back(app: ms.App, tmp_path: Path) -> None:
    @app.task
    def noop() -> None: ...

    with TaskTest(app, tmp_path):
        noop.delay()
    with app:
        noop.delay()
        assert app.tasks_engine.depth()[ms.TaskState.QUEUED] == 1
