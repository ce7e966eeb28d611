"""``millstream inspect``: what the workers that live do, and what they know."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import click
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from millstream.app import App
from millstream.cli.target import existing_store
from millstream.primitives.duration import duration_us, format_duration
from millstream.tasks.limits import LISTED_TASKS_MAX
from millstream.tasks.message import TaskFilter, TaskStatus
from millstream.tasks.states import TaskState
from millstream.tasks.workers import WorkerStatus

F = TypeVar("F", bound=Callable[..., Any])
_NOBODY = 1
"""The exit code when no worker answers."""


@click.group()
def inspect() -> None:
    """Look at workers that live: ping, active, reserved, stats, registered.

    Each is asked, and tells what it does at this moment. STORE is the directory of a store; without it the only
    ``*.mill`` here.
    """


def _asking(function: F) -> F:
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print JSON."),
        click.option(
            "--timeout",
            default="1s",
            show_default=True,
            metavar="DURATION",
            help="How long to wait for answers.",
        ),
    ):
        function = option(function)
    return click.argument("store", default=None, required=False)(function)


def _asked(store: str | None, timeout: str) -> tuple[list[WorkerStatus], int]:
    """Return the workers that live, and the time; those that have not answered have told before that time."""
    with App("inspect", store=existing_store(store)) as app:
        asked_us = app.tasks_engine.now_us()
        found = app.workers.all(timeout_s=duration_us(timeout) / 1_000_000)
    living = [one for one in found if one.lives]
    if not living:
        click.echo("No worker answers.", err=True)
        sys.exit(_NOBODY)
    return living, asked_us


def _show(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = Table()
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    Console().print(table)


def _print_json(facts: object) -> None:
    click.echo(json.dumps(facts, indent=2))


@inspect.command()
@_asking
def ping(store: str | None, timeout: str, *, as_json: bool) -> None:
    """Ask every worker process for a sign of life; exits with 1 when one does not answer."""
    workers, asked_us = _asked(store, timeout)
    answers = {one.worker: one.told_us >= asked_us for one in workers}
    if as_json:
        _print_json(answers)
    else:
        rows = (
            (one.node, one.worker, "pong" if answers[one.worker] else "no answer")
            for one in workers
        )
        _show(("worker", "process", "answer"), rows)
    sys.exit(0 if all(answers.values()) else _NOBODY)


@inspect.command()
@_asking
def active(store: str | None, timeout: str, *, as_json: bool) -> None:
    """Show what runs now, where, and for how long."""
    workers, _ = _asked(store, timeout)
    if as_json:
        _print_json({one.worker: msgspec.to_builtins(one.report.running) for one in workers})
        return
    _show(
        ("worker", "process", "id", "task", "runs for"),
        (
            (
                one.node,
                one.worker,
                task.id,
                task.name,
                format_duration(max(0, one.told_us - task.started_us)),
            )
            for one in workers
            for task in one.report.running
        ),
    )


@inspect.command()
@_asking
def reserved(store: str | None, timeout: str, *, as_json: bool) -> None:
    """Show tasks that a worker holds and has not started."""
    workers, _ = _asked(store, timeout)
    running = {task.id for one in workers for task in one.report.running}
    with App("inspect", store=existing_store(store)) as app:
        chosen = TaskFilter(state=TaskState.RUNNING)
        held = app.tasks.control.tasks(chosen, tasks_max=LISTED_TASKS_MAX)
    waiting = [task for task in held if task.id not in running]
    if as_json:
        _print_json([{"id": one.id, "name": one.name, "queue": one.queue} for one in waiting])
        return
    _show(("id", "task", "queue"), (_reserved_row(one) for one in waiting))


def _reserved_row(task: TaskStatus) -> tuple[str, str, str]:
    return task.id, task.name, task.queue


@inspect.command()
@_asking
def stats(store: str | None, timeout: str, *, as_json: bool) -> None:
    """Show pool, queues, age, sign of life, tasks done and memory of every worker process."""
    workers, asked_us = _asked(store, timeout)
    if as_json:
        _print_json([_facts(one) for one in workers])
        return
    _show(
        (
            "worker",
            "process",
            "pool",
            "queues",
            "since",
            "told",
            "done",
            "raised",
            "runs",
            "memory",
        ),
        (_stats_row(one, asked_us) for one in workers),
    )


def _facts(one: WorkerStatus) -> dict[str, object]:
    facts: dict[str, object] = msgspec.to_builtins(one)
    return {**facts, "host": one.host, "pid": one.pid}


def _stats_row(one: WorkerStatus, now_us: int) -> tuple[str, ...]:
    report = one.report
    memory = "–" if report.memory_bytes is None else f"{report.memory_bytes / 2**20:,.0f} MiB"
    return (
        one.node,
        one.worker,
        one.pool if one.concurrency == 1 else f"{one.pool}, {one.concurrency}",
        ", ".join(one.queues),
        format_duration(max(0, now_us - one.joined_us)) + " ago",
        format_duration(max(0, now_us - one.told_us)) + " ago",
        f"{report.succeeded:,}",
        f"{report.raised:,}",
        f"{report.running_count:,}",
        memory,
    )


@inspect.command()
@_asking
def registered(store: str | None, timeout: str, *, as_json: bool) -> None:
    """Show the names of the tasks that each worker knows."""
    workers, _ = _asked(store, timeout)
    names: dict[str, list[str]] = {}
    for one in workers:
        names.setdefault(one.node, sorted(one.tasks))
    if as_json:
        _print_json(names)
        return
    _show(("worker", "tasks"), ((node, "\n".join(known)) for node, known in names.items()))
