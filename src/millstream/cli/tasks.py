"""``millstream tasks``: look at tasks, and retry, revoke or purge them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from millstream.app import App
from millstream.cli.target import existing_store
from millstream.cli.task_progress import follow_progress, show_progress
from millstream.primitives.duration import duration_us, format_duration
from millstream.primitives.schema import us_datetime
from millstream.tasks.arguments import decode_plain
from millstream.tasks.limits import LISTED_TASKS_MAX
from millstream.tasks.message import TaskFilter, TaskStatus
from millstream.tasks.result import unknown_task_id
from millstream.tasks.states import TaskState

F = TypeVar("F", bound=Callable[..., Any])
_STATES = click.Choice([str(state) for state in TaskState])


@click.group()
def tasks() -> None:
    """List, show, retry, revoke and purge tasks.

    STORE is the directory of a store; without it the only ``*.mill`` here.
    """


def _chosen(function: F) -> F:
    for option in (
        click.option("--older", metavar="DURATION", help="Only those sent so long ago or earlier."),
        click.option("--name", metavar="NAME", help="Only those of this task."),
        click.option("--queue", metavar="NAME", help="Only those of this queue."),
        click.option("--state", type=_STATES, help="Only those in this state."),
    ):
        function = option(function)
    return function


def _filter(
    app: App, *, state: str | None, queue: str | None, name: str | None, older: str | None
) -> TaskFilter:
    before_us = None if older is None else app.tasks_engine.now_us() - duration_us(older) + 1
    return TaskFilter(
        state=None if state is None else TaskState(state),
        queue=queue,
        name=name,
        enqueued_before_us=before_us,
    )


@tasks.command("list")
@click.argument("store", default=None, required=False)
@_chosen
@click.option(
    "--limit",
    type=click.IntRange(1, LISTED_TASKS_MAX),
    default=50,
    show_default=True,
    help="At most so many, the youngest first.",
)
def list_tasks(store: str | None, limit: int, **chosen: str | None) -> None:
    """List tasks with their state; `--state failed` is the dead set."""
    with App("tasks", store=existing_store(store)) as app:
        found = app.tasks.control.tasks(_filter(app, **chosen), tasks_max=limit)
        now_us = app.tasks_engine.now_us()
    if not found:
        click.echo("No such task.")
        return
    table = Table()
    for column in ("id", "task", "queue", "state", "attempt", "sent", "error"):
        table.add_column(column, overflow="fold" if column == "id" else "ellipsis")
    for one in found:
        table.add_row(*(escape(cell) for cell in _row(one, now_us)))
    Console().print(table)


def _row(one: TaskStatus, now_us: int) -> tuple[str, ...]:
    error = f"{one.last.error_type}: {one.last.error}" if one.last is not None else ""
    sent = f"{format_duration(now_us - one.enqueued_us)} ago"
    lines = (one.revoke_reason or error).splitlines() or [""]
    return one.id, one.name, one.queue, one.state, str(one.attempt), sent, lines[0]


@tasks.command()
@click.argument("task_id", metavar="ID")
@click.argument("store", default=None, required=False)
@click.option("--follow", is_flag=True, help="Draw its progress until it has ended.")
def show(task_id: str, store: str | None, *, follow: bool) -> None:
    """Show one task: state, times, progress, result, and the traceback of every failed attempt."""
    console = Console()
    with App("tasks", store=existing_store(store)) as app:
        engine = app.tasks_engine
        if follow:
            follow_progress(console, engine.changes(task_id))
        status = engine.status(task_id)
        if status is None:
            raise unknown_task_id(task_id)
        for label, value in _facts(status).items():
            console.print(f"{label:>10}  {escape(value)}", highlight=False)
        progress = engine.control.progress(task_id)
        if progress is not None:
            show_progress(console, progress)
        for attempt in engine.attempts(task_id):
            head = (
                f"attempt {attempt.number}, {attempt.outcome.replace('_', ' ')}, {attempt.worker}"
            )
            console.print(f"\n[bold]{escape(head)}[/bold]")
            text = attempt.traceback or f"{attempt.error_type}: {attempt.error}"
            console.print(escape(text.rstrip()), highlight=False)


def _facts(status: TaskStatus) -> dict[str, str]:
    facts = {
        "task": status.name,
        "queue": f"{status.queue}, priority {status.priority}",
        "state": str(status.state),
        "attempt": str(status.attempt),
        "sent": us_datetime(status.enqueued_us).isoformat(),
    }
    if status.due_us > status.enqueued_us:
        facts["due"] = us_datetime(status.due_us).isoformat()
    if status.start_before_us is not None:
        facts["expires"] = us_datetime(status.start_before_us).isoformat()
    if status.finished_us is not None:
        facts["ended"] = us_datetime(status.finished_us).isoformat()
    if status.revoke_reason is not None:
        facts["revoked"] = status.revoke_reason
    if status.result is not None:
        facts["result"] = repr(decode_plain(status.result))
    return facts


@tasks.command()
@click.argument("task_id", metavar="ID")
@click.argument("store", default=None, required=False)
@_chosen
def retry(task_id: str, store: str | None, **chosen: str | None) -> None:
    """Run failed and revoked tasks again, and those now that wait for a time.

    ID is that of one task, or `all`: then the options choose, by default every failed one.
    """
    with App("tasks", store=existing_store(store)) as app:
        chosen["state"] = chosen["state"] or str(TaskState.FAILED)
        count = _change(app, task_id, chosen, app.tasks.control.requeue)
    click.echo(f"{count:,} queued again.")


@tasks.command()
@click.argument("task_id", metavar="ID")
@click.argument("store", default=None, required=False)
@_chosen
@click.option("--reason", default="on request", show_default=True, help="Kept with the task.")
@click.option("--terminate", is_flag=True, help="End running ones now.")
def revoke(
    task_id: str, store: str | None, reason: str, terminate: bool, **chosen: str | None
) -> None:
    """Withdraw tasks: those that wait end at once, those that run are not tried again.

    ID is that of one task, or `all`: then the options choose.
    """
    with App("tasks", store=existing_store(store)) as app:
        control = app.tasks.control
        count = _change(
            app,
            task_id,
            chosen,
            lambda ids: control.revoke(ids, reason=reason, terminate=terminate),
        )
    click.echo(f"{count:,} revoked.")


def _change(
    app: App,
    task_id: str,
    chosen: Mapping[str, str | None],
    change: Callable[[list[str]], int],
) -> int:
    if task_id != "all":
        count = change([task_id])
        if not count and app.tasks_engine.status(task_id) is None:
            raise unknown_task_id(task_id)
        return count
    ids = app.tasks.control.ids(_filter(app, **chosen), tasks_max=LISTED_TASKS_MAX)
    return change(ids)


@tasks.command()
@click.argument("store", default=None, required=False)
@_chosen
@click.option("--force", is_flag=True, help="Do not ask.")
def purge(store: str | None, force: bool, **chosen: str | None) -> None:
    """Delete tasks with their results and errors, whatever their state; running ones stay."""
    with App("tasks", store=existing_store(store)) as app:
        which = ", ".join(f"{key} {value}" for key, value in chosen.items() if value) or "all tasks"
        if not force and not click.confirm(f"Delete {which}?"):
            sys.exit(1)
        count = app.tasks.control.purge(_filter(app, **chosen))
    click.echo(f"{count:,} deleted.")
