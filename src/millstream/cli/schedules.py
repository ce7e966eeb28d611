"""``millstream schedules``: what is sent by itself, and when."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import click
from rich.console import Console
from rich.table import Table

from millstream.app import App
from millstream.cli.target import existing_store
from millstream.tasks.schedule import ScheduleRegistry, ScheduleStatus

_store = click.option(
    "--store", metavar="STORE", help="The directory of the store. [default: the only *.mill here]"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@click.group()
def schedules() -> None:
    """What is sent by itself: list it, pause, resume, trigger or remove it."""


@schedules.command("list")
@_store
def list_(store: str | None) -> None:
    """List the schedules of a store: when each runs next and ran last, in UTC."""
    table = Table(title_justify="left")
    for column in ("schedule", "task", "when", "next run", "last run"):
        table.add_column(column)
    for column in ("runs", "skipped"):
        table.add_column(column, justify="right")
    with App("schedules", store=existing_store(store)) as app:
        for one in app.schedules.list():
            last = _moment(one.last_us)
            counts = (f"{one.runs:,}", f"{one.skipped:,}")
            table.add_row(one.name, one.task, str(one.times), _next(one), last, *counts)
    Console().print(table)


@schedules.command()
@click.argument("name")
@_store
def pause(name: str, store: str | None) -> None:
    """Let the schedule NAME not run until it is resumed."""
    _do(store, lambda known: known.pause(name))
    click.echo(f"{name} is paused")


@schedules.command()
@click.argument("name")
@_store
def resume(name: str, store: str | None) -> None:
    """Let the schedule NAME run again, from its first time after now."""
    _do(store, lambda known: known.resume(name))
    click.echo(f"{name} runs again")


@schedules.command()
@click.argument("name")
@_store
def trigger(name: str, store: str | None) -> None:
    """Send the call of the schedule NAME now, beside its times, and print the id of the task."""
    click.echo(_do(store, lambda known: known.trigger(name)))


@schedules.command()
@click.argument("name")
@_store
def remove(name: str, store: str | None) -> None:
    """Forget the schedule NAME. A worker that still declares it stores it again when it starts."""
    _do(store, lambda known: known.remove(name))
    click.echo(f"{name} is removed")


def _do(store: str | None, action: Callable[[ScheduleRegistry], str | None]) -> str | None:
    with App("schedules", store=existing_store(store)) as app:
        return action(app.schedules)


def _next(one: ScheduleStatus) -> str:
    if one.retired_us is not None:
        return "none: no app declares it"
    if one.paused_us is not None:
        return f"paused: {one.why}" if one.why else "paused"
    return _moment(one.next_us)


def _moment(moment_us: int | None) -> str:
    if moment_us is None:
        return "–"
    return (_EPOCH + timedelta(microseconds=moment_us)).isoformat(sep=" ", timespec="seconds")[:19]
