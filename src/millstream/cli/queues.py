"""``millstream queues``: what waits where, and pausing it."""

from __future__ import annotations

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from millstream.app import App
from millstream.cli.target import existing_store
from millstream.primitives.duration import format_duration
from millstream.tasks.states import TaskState


@click.group()
def queues() -> None:
    """List queues, pause and resume them.

    STORE is the directory of a store; without it the only ``*.mill`` here.
    """


@queues.command("list")
@click.argument("store", default=None, required=False)
def list_queues(store: str | None) -> None:
    """List queues: tasks by state, the age of the oldest that waits, and what moved in the last minute."""
    with App("queues", store=existing_store(store)) as app:
        found = app.tasks.control.queues()
        now_us = app.tasks_engine.now_us()
    if not found:
        click.echo("No queue holds tasks.")
        return
    table = Table()
    table.add_column("queue")
    for column in (*TaskState, "oldest", "sent/min", "ended/min"):
        table.add_column(column, justify="right")
    for queue in found:
        paused = " (paused)" if queue.paused_us is not None else ""
        oldest = "–" if queue.oldest_us is None else format_duration(now_us - queue.oldest_us)
        table.add_row(
            escape(queue.name) + paused,
            *(f"{queue.depth.get(state, 0):,}" for state in TaskState),
            oldest,
            f"{queue.enqueued_lately:,}",
            f"{queue.finished_lately:,}",
        )
    Console().print(table)


@queues.command()
@click.argument("queue")
@click.argument("store", default=None, required=False)
def pause(queue: str, store: str | None) -> None:
    """Let no worker take tasks from a queue until it is resumed; those that run come to their end."""
    with App("queues", store=existing_store(store)) as app:
        app.tasks.control.pause(queue)
    click.echo(f"{queue} is paused.")


@queues.command()
@click.argument("queue")
@click.argument("store", default=None, required=False)
def resume(queue: str, store: str | None) -> None:
    """Let workers take tasks from a queue again."""
    with App("queues", store=existing_store(store)) as app:
        was_paused = app.tasks.control.resume(queue)
    click.echo(f"{queue} goes on." if was_paused else f"{queue} was not paused.")
