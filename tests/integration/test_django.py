"""Django's tasks in a real project: SQLite, the contract of ``django.tasks``, and ``manage.py millstream_worker``."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import django
import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connections, transaction
from django.test import override_settings
from django.utils import timezone

import millstream as ms
from millstream.engines.local.worker import Worker, WorkerSettings
from millstream.integrations.django.priorities import stored_priority
from millstream.tasks.message import TaskFilter

SITE = Path(__file__).parent / "django_site"
PATIENCE_S = 60
BACKEND = "millstream.integrations.django.backend.MillstreamBackend"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The project, set up in this process, with an empty database."""
    folder = tmp_path_factory.mktemp("bookshop")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DJANGO_SETTINGS_MODULE", "bookshop.settings")
        patch.setenv("BOOKSHOP_FOLDER", str(folder))
        patch.syspath_prepend(SITE)
        django.setup()
        call_command("migrate", run_syncdb=True, verbosity=0)
        yield folder
        connections.close_all()


@pytest.fixture
def tasks(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The tasks of the project, with an empty store and empty tables."""
    import bookshop.tasks
    from bookshop.models import Note, Order

    from millstream.integrations.django.contract import task_backends

    Note.objects.all().delete()
    Order.objects.all().delete()
    yield bookshop.tasks
    for alias in ("default", "patient"):
        app = task_backends[alias].app
        app.tasks.control.purge(TaskFilter())
        app.close()


def app_of(alias: str = "default") -> ms.App:
    from millstream.integrations.django.contract import task_backends

    app: ms.App = task_backends[alias].app
    return app


def work(alias: str = "default", *queues: str) -> None:
    """Run what is there in this thread."""
    app = app_of(alias)
    settings = WorkerSettings(queues=queues or ("default",), burst=True)
    Worker(app.tasks_engine, app.tasks, settings, chance=Random(0)).run()


def manage(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run manage.py from another directory than its own."""
    return subprocess.run(
        [sys.executable, str(SITE / "manage.py"), *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONWARNINGS": "default"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def notes() -> list[str]:
    from bookshop.models import Note

    return list(Note.objects.order_by("pk").values_list("text", flat=True))


# ---- the contract ----------------------------------------------------------------------------------


def test_a_call_is_ready_then_successful(tasks: ModuleType) -> None:
    before = timezone.now()
    result = tasks.add.enqueue(1, b=(3))
    assert (result.status, result.args, result.kwargs) == ("READY", [1], {"b": 3})
    assert (result.backend, result.attempts, result.is_finished) == ("default", 0, False)
    assert before <= result.enqueued_at <= timezone.now()
    with pytest.raises(ValueError, match="not finished"):
        _ = result.return_value
    work()
    assert result.status == "READY", "a result is as it was read"
    result.refresh()
    assert (result.status, result.return_value, result.attempts) == ("SUCCESSFUL", 4, 1)
    assert result.enqueued_at <= result.started_at == result.last_attempted_at
    assert result.started_at <= result.finished_at
    assert result.errors == []
    again = tasks.add.get_result(result.id)
    assert again == result


def test_a_failure_keeps_its_error(tasks: ModuleType) -> None:
    result = tasks.refuse.enqueue(17)
    work()
    result.refresh()
    assert (result.status, result.is_finished, result.attempts) == ("FAILED", True, 1)
    [error] = result.errors
    assert error.exception_class is LookupError
    assert 'raise LookupError(f"no order {number}")' in error.traceback
    with pytest.raises(ValueError, match="failed"):
        _ = result.return_value


def test_what_is_no_json_is_refused(tasks: ModuleType) -> None:
    with pytest.raises(TypeError, match="Unsupported type"):
        tasks.add.enqueue(object())
    result = tasks.give_back_a_set.enqueue()
    work()
    result.refresh()
    assert [error.exception_class for error in result.errors] == [TypeError]
    assert notes()[-1] == "finished give_back_a_set FAILED 1 1"
    result = tasks.give_back_too_much.enqueue()
    work()
    result.refresh()
    assert [error.exception_class for error in result.errors] == [ms.errors.PayloadError]
    assert notes()[-1] == "finished give_back_too_much FAILED 1 1", "not first a success"


def test_a_task_takes_its_context(tasks: ModuleType) -> None:
    result = tasks.attempt.enqueue("word")
    work()
    result.refresh()
    assert result.return_value == ["word", 1, "RUNNING", 1, ["word"]]


def test_a_coroutine_runs_and_may_use_the_database(tasks: ModuleType) -> None:
    result = tasks.greet.enqueue("ann")
    work()
    result.refresh()
    assert result.return_value == "hello ann, 0 orders"


def test_the_twins_of_asyncio(tasks: ModuleType) -> None:
    async def send() -> Any:
        result = await tasks.add.aenqueue(4)
        await asyncio.to_thread(work)
        await result.arefresh()
        return result, await tasks.add.aget_result(result.id)

    result, again = asyncio.run(send())
    assert result.return_value == again.return_value == 6


def test_a_backend_that_retries_counts_attempts(tasks: ModuleType) -> None:
    result = tasks.try_again.enqueue(2)
    hopeless = tasks.try_again.enqueue(9)
    work("patient", "patient")
    result.refresh()
    assert (result.status, result.return_value, result.attempts) == ("SUCCESSFUL", 3, 3)
    assert [error.exception_class for error in result.errors] == [ConnectionError] * 2
    hopeless.refresh()
    assert (hopeless.status, hopeless.attempts, len(hopeless.errors)) == ("FAILED", 3, 3)
    assert hopeless.started_at < hopeless.last_attempted_at < hopeless.finished_at


def test_a_time_to_come_is_kept_in_the_store(tasks: ModuleType) -> None:
    later = timezone.now() + timedelta(hours=1)
    result = tasks.add.using(run_after=later).enqueue(1)
    now = tasks.add.using(run_after=timezone.now() - timedelta(hours=1)).enqueue(1)
    work()
    result.refresh()
    now.refresh()
    assert (result.status, now.status) == ("READY", "SUCCESSFUL")
    assert tasks.add.get_result(result.id).task.run_after == later
    assert app_of().tasks.result(result.id).state == "scheduled"


@override_settings(USE_TZ=False)
def test_without_time_zones_times_are_naive(tasks: ModuleType) -> None:
    naive = datetime(2126, 7, 1, 12, 0)  # noqa: DTZ001 - that is the point
    result = tasks.add.using(run_after=naive).enqueue(1)
    found = tasks.add.get_result(result.id)
    assert found.task.run_after == naive
    assert found.enqueued_at.tzinfo is None
    eta_us = app_of().tasks.result(result.id).status().due_us
    assert datetime.fromtimestamp(eta_us / 1e6).astimezone() == timezone.make_aware(naive)


def test_priorities_keep_their_order(tasks: ModuleType) -> None:
    steps = [stored_priority(priority) for priority in range(-100, 101)]
    assert steps == sorted(steps)
    assert (steps[0], stored_priority(0), steps[-1]) == (0, 5, 9)
    assert {steps.count(step) for step in range(10)} == {20, 21}
    for priority in (-100, 0, 60, 100, -1, 79):
        tasks.mail.using(priority=priority).enqueue(str(priority))
    work("default", "mail")
    sent = [text.removeprefix("mail ") for text in notes() if text.startswith("mail ")]
    assert sent == ["100", "60", "79", "0", "-1", "-100"], "60 and 79 share a step"
    assert tasks.mail.get_result(tasks.mail.using(priority=79).enqueue("x").id).task.priority == 79


def test_results_that_are_not_there_or_of_another_task(tasks: ModuleType) -> None:
    from millstream.integrations.django.contract import TaskResultDoesNotExist

    result = tasks.add.enqueue(1)
    with pytest.raises(Exception, match="Task does not match"):
        tasks.ship.get_result(result.id)
    with pytest.raises(TaskResultDoesNotExist):
        tasks.add.get_result("nobody")
    app = app_of()
    for name in ("json.dumps", "no.such.module", "bookshop.tasks.nothing"):
        sent = app.send_task(name, [1])
        with pytest.raises(TaskResultDoesNotExist):
            tasks.add.get_result(sent.id)


def test_a_revoked_call_has_failed(tasks: ModuleType) -> None:
    result = tasks.add.enqueue(1)
    assert app_of().tasks.result(result.id).revoke("sold out")
    result.refresh()
    assert result.status == "FAILED"
    [error] = result.errors
    assert error.exception_class is ms.errors.TaskRevoked
    assert "sold out" in error.traceback


def test_signals_tell_each_step(tasks: ModuleType) -> None:
    tasks.add.enqueue(1)
    tasks.refuse.enqueue(1)
    tasks.try_again.enqueue(1)
    work()
    work("patient", "patient")
    assert notes() == [
        "enqueued add READY 0 0",
        "enqueued refuse READY 0 0",
        "enqueued try_again READY 0 0",
        "started add RUNNING 1 0",
        "finished add SUCCESSFUL 1 0",
        "started refuse RUNNING 1 0",
        "finished refuse FAILED 1 1",
        "started try_again RUNNING 1 0",
        "started try_again RUNNING 2 1",
        "finished try_again SUCCESSFUL 2 1",
    ]


def test_a_call_may_wait_for_the_commit(tasks: ModuleType) -> None:
    from bookshop.models import Order

    sent: list[Any] = []
    with transaction.atomic():
        order = Order.objects.create(title="Candide")
        transaction.on_commit(lambda: sent.append(tasks.ship.enqueue(order.pk)))
        assert sent == []
    work()
    order.refresh_from_db()
    assert order.shipped
    with transaction.atomic():
        transaction.on_commit(lambda: sent.append(tasks.ship.enqueue(order.pk)))
        transaction.set_rollback(True)
    assert len(sent) == 1


def test_threads_share_one_store(tasks: ModuleType) -> None:
    apps: list[ms.App] = []
    threads = [threading.Thread(target=lambda: apps.append(app_of())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {id(app) for app in apps} == {id(app_of())}


def nested(task: Callable[..., Any]) -> Any:
    @task
    def inner() -> None: ...

    return inner


def test_tasks_that_cannot_be_run_are_refused(tasks: ModuleType) -> None:
    from millstream.integrations.django.contract import InvalidTask

    with pytest.raises(InvalidTask, match="module level"):
        nested(tasks.task)
    with pytest.raises(InvalidTask, match="not valid for backend"):
        tasks.add.using(queue_name="nowhere")
    with pytest.raises(InvalidTask, match="whole number"):
        tasks.add.using(priority=101)
    with pytest.raises(InvalidTask, match="aware datetime"):
        tasks.add.using(run_after=datetime(2126, 1, 1))  # noqa: DTZ001 - refused for that


# ---- settings --------------------------------------------------------------------------------------


def checked(options: dict[str, Any], **more: Any) -> list[str]:
    from django.core.checks import run_checks

    setting = {"default": {"BACKEND": BACKEND, "OPTIONS": options, **more}}
    with override_settings(TASKS=setting):
        return [f"{message.id} {message.msg}" for message in run_checks()]


def test_checks_say_what_is_wrong_with_the_settings(tasks: ModuleType, tmp_path: Path) -> None:
    store = tmp_path / "tasks.mill"
    assert checked({"store": store, "retries": 3, "backoff": "exponential"}) == []
    assert checked({}) == ["millstream.E001 the backend needs a directory for its store"]
    assert checked({"store": store, "speed": 9}) == [
        "millstream.E001 'speed' is no option of the backend"
    ]
    [durability] = checked({"store": store, "durability": "paper"})
    assert durability.startswith("millstream.E001")
    [retries] = checked({"store": store, "retries": "many"})
    assert retries.startswith("millstream.E001")
    [missing] = checked({"store": tmp_path / "no" / "tasks.mill"})
    assert missing.startswith("millstream.E002")
    [queue] = checked({"store": store}, QUEUES=["a,b"])
    assert queue.startswith("millstream.E003")
    with override_settings(INSTALLED_APPS=["bookshop.apps.BookshopConfig"]):
        [absent] = checked({"store": store})
    assert absent.startswith("millstream.W001")
    assert not store.exists(), "a check opens nothing"


def test_wrong_options_are_refused_when_they_are_used(tasks: ModuleType) -> None:
    from millstream.integrations.django.contract import InvalidTaskBackend

    setting = {"default": {"BACKEND": BACKEND, "OPTIONS": {}}}
    with override_settings(TASKS=setting), pytest.raises(InvalidTaskBackend, match="directory"):
        tasks.add.enqueue(1)


# ---- workers ---------------------------------------------------------------------------------------


def test_the_command_runs_the_queues_of_the_backend(tasks: ModuleType, tmp_path: Path) -> None:
    from bookshop.models import Order

    order = Order.objects.create(title="Candide")
    shipped, sent = tasks.ship.enqueue(order.pk), tasks.mail.enqueue("ann")
    other = tasks.try_again.enqueue(0)
    done = manage("millstream_worker", "--burst", "--concurrency", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for result in (shipped, sent, other):
        result.refresh()
    assert (shipped.status, sent.status, other.status) == ("SUCCESSFUL", "SUCCESSFUL", "READY")
    assert shipped.return_value == {"shipped": order.pk}
    assert not shipped.worker_ids[0].endswith(f":{os.getpid()}")
    order.refresh_from_db()
    assert order.shipped
    assert "finished ship SUCCESSFUL 1 0" in notes()
    done = manage(
        "millstream_worker", "--backend", "patient", "--burst", "--pool", "solo", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    other.refresh()
    assert other.status == "SUCCESSFUL"


def test_a_killed_worker_is_one_attempt(tasks: ModuleType, tmp_path: Path) -> None:
    result = tasks.die_once.enqueue()
    done = manage("millstream_worker", "--burst", "--concurrency", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result.refresh()
    assert (result.status, result.return_value, result.attempts) == ("SUCCESSFUL", 2, 2)
    [error] = result.errors
    assert error.exception_class.__name__ == "WorkerDied"


@pytest.mark.parametrize("pool", ["thread", "async", "solo"])
def test_every_pool_runs_plain_and_async_tasks(
    tasks: ModuleType, tmp_path: Path, pool: str
) -> None:
    results = [tasks.add.enqueue(n) for n in range(4)]
    greetings = [tasks.greet.enqueue(str(n)) for n in range(4)]
    uses = [tasks.uses_of_this_connection.enqueue() for _ in range(4)]
    done = manage(
        "millstream_worker", "--burst", "--pool", pool, "--concurrency", "2", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    for result in [*results, *greetings, *uses]:
        result.refresh()
        assert result.status == "SUCCESSFUL", result.errors
    assert [result.return_value for result in results] == [2, 3, 4, 5]
    assert [use.return_value for use in uses] == [1] * 4, "each task has a connection of its own"


def test_the_apps_name_works_where_there_is_no_manage_py(tasks: ModuleType) -> None:
    result = tasks.add.enqueue(1)
    target = "millstream.integrations.django.worker:default"
    command = [sys.executable, "-m", "millstream", "worker", "-A", target, "--burst"]
    subprocess.run([*command, "--concurrency", "1"], cwd=SITE, check=True, timeout=PATIENCE_S)
    result.refresh()
    assert result.return_value == 3


def test_a_call_whose_code_is_gone_fails_and_says_so(tasks: ModuleType) -> None:
    app = app_of()
    sent = [
        app.send_task(name, [1])
        for name in ("bookshop.tasks.gone", "bookshop.gone.task", "json.dumps")
    ]
    work()
    errors = [result.attempts()[-1].error for result in sent]
    assert all("there is no task" in error for error in errors), json.dumps(errors)


def test_a_backend_that_is_not_ours_has_no_worker(tasks: ModuleType) -> None:
    with pytest.raises(CommandError, match="there is no backend 'nobody'"):
        call_command("millstream_worker", backend="nobody")
    foreign = {"BACKEND": BACKEND.replace("backend.Mill", "nowhere.Mill")}
    setting = {"default": foreign, "dummy": {"BACKEND": f"{package()}.backends.dummy.DummyBackend"}}
    with override_settings(TASKS=setting):
        with pytest.raises(CommandError, match="there is no backend 'default'"):
            call_command("millstream_worker")
        with pytest.raises(CommandError, match="the backend 'dummy' is a DummyBackend"):
            call_command("millstream_worker", backend="dummy")


def package() -> str:
    from millstream.integrations.django.contract import BaseTaskBackend

    return BaseTaskBackend.__module__.partition(".backends")[0]
