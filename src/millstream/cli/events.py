"""``millstream events``: what happens to tasks, as it happens."""

from __future__ import annotations

import json
import sys

import click
import msgspec

from millstream.app import App
from millstream.cli.target import existing_store
from millstream.primitives.schema import us_datetime
from millstream.tasks.events import TaskChange


@click.command()
@click.argument("store", default=None, required=False)
@click.option("--all", "from_start", is_flag=True, help="Begin with the oldest that is kept.")
@click.option("--no-follow", is_flag=True, help="End behind the last one, and wait for none.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each.")
def events(store: str | None, *, from_start: bool, no_follow: bool, as_json: bool) -> None:
    """Follow the changes of tasks until Ctrl-C.

    They have to be recorded: `millstream control enable_events`. STORE is the directory of a store; without it the only
    ``*.mill`` here.
    """
    with App("events", store=existing_store(store)) as app:
        after = 0 if from_start else None
        try:
            for change in app.events.follow(after=after, timeout_s=0 if no_follow else None):
                click.echo(_as_json(change) if as_json else _as_text(change))
                sys.stdout.flush()
        except KeyboardInterrupt:
            pass  # The way to end it.


def _as_json(change: TaskChange) -> str:
    return json.dumps(msgspec.to_builtins(change))


def _as_text(change: TaskChange) -> str:
    missed = f"({change.missed:,} older changes are not kept)\n" if change.missed else ""
    at = us_datetime(change.at_us).isoformat(timespec="milliseconds")
    way = f"{change.before or 'new':>9} → {change.after or 'purged':<9}"
    where = f"  {change.worker}" if change.worker else ""
    return f"{missed}{at}  {way}  {change.id}  {change.name}  attempt {change.attempt}{where}"
