"""``millstream triggers``: flows that run at times, when files arrive, after others, or when enough has gathered."""

from __future__ import annotations

import signal
import threading
from datetime import UTC, datetime, timedelta
from types import FrameType

import click

from millstream.cli.target import load_app
from millstream.flows.triggers import TriggerStatus
from millstream.primitives.clock import SYSTEM_CLOCK

_app = click.option(
    "-A", "--app", "target", required=True, metavar="MODULE:APP", help="Where the app is."
)
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@click.group()
def triggers() -> None:
    """Flows that run by themselves: run them as they become due, or list them."""


@triggers.command()
@_app
@click.option("--once", is_flag=True, help="Run what is due now, and end.")
def run(target: str, once: bool) -> None:
    """Run the flows of an app whenever they are due, until stopped.

    Ctrl-C or SIGTERM ends it behind the run that goes on; a stream stops behind its micro-batch. A second one ends it
    at once, and that run begins again the next time. Any number of processes may run it: each flow is run by one of
    them, and by another within a second when that one dies.
    """
    stop = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        stop.set()
        for one in _SIGNALS:
            signal.signal(one, signal.default_int_handler)

    with load_app(target) as app:
        if once:
            runs = app.triggers.run_due(report=click.echo)
            click.echo(f"{runs:,} {'run' if runs == 1 else 'runs'}")
            return
        for number in _SIGNALS:
            signal.signal(number, end)
        for one in app.triggers.list():
            click.echo(f"{one.name} ({one.mode}): {', or '.join(one.when)}")
        app.triggers.run(stop=stop, report=click.echo)


@triggers.command("list")
@_app
def list_(target: str) -> None:
    """List the triggers of an app: when each is due and began last, in UTC."""
    with load_app(target) as app:
        known = app.triggers.list()
    now_us = SYSTEM_CLOCK.now_us()
    for one in known:
        click.echo(_shown(one, now_us))
    if not known:
        click.echo("The app has no trigger.")


def _shown(one: TriggerStatus, now_us: int) -> str:
    due = f"due: {_due(one.due_us, now_us)}"
    last = "never ran" if one.last_us is None else f"last run: {_moment(one.last_us)}"
    lines = [
        f"{one.name} ({one.mode}): {', or '.join(one.when)}",
        f"  {due}; {last}; runs: {one.runs:,}",
    ]
    if one.error is not None:
        lines.append(f"  failures: {one.failures:,}, the last: {one.error}")
    return "\n".join(lines)


def _due(due_us: int | None, now_us: int) -> str:
    if due_us is None:
        return "not by time alone"
    return "now" if due_us <= now_us else _moment(due_us)


def _moment(moment_us: int) -> str:
    return (_EPOCH + timedelta(microseconds=moment_us)).isoformat(sep=" ", timespec="seconds")[:19]
