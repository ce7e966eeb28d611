"""``millstream state``: what the steps of a stream keep."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime

import click
import msgspec
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from millstream.cli.flow_session import opened_flow
from millstream.cli.json_text import json_text
from millstream.cli.wide import wide_console
from millstream.flows.kept import ROWS_SHOWN, KeptState
from millstream.flows.kept_keys import KeyText


@click.command()
@click.argument("flow", metavar="MODULE:FLOW")
@click.option(
    "--step", type=click.IntRange(min=0), metavar="N", help="Only step N of `explain`; 0: a join."
)
@click.option(
    "--key",
    metavar="K",
    help="Only this key, as --json shows it; of several columns with commas between.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=ROWS_SHOWN,
    show_default=True,
    metavar="ROWS",
    help="How many rows of each state are shown.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def state(flow: str, step: int | None, key: str | None, limit: int, *, as_json: bool) -> None:
    """Show what the steps of a stream keep: open windows, keys with their state and timers, rows that wait.

    As the last commit left it, whether a process streams the flow now or not. Nothing is changed. MODULE:FLOW names a
    flow in a module, or a function without arguments that returns one.
    """
    with opened_flow(flow) as found:
        states = found.state(step=step, key=None if key is None else KeyText(key), rows_max=limit)
    if as_json:
        click.echo(json_text([_plain(asdict(one)) for one in states]))
        return
    if not states:
        click.echo("No step of this flow keeps rows; what a fit learns is in `millstream models`.")
    for one in states:
        _print(one)


def _plain(value: object) -> object:
    """Return a value as JSON has it: times in ISO 8601, bytes in base 64, keys of dicts as text."""
    builtin: object = msgspec.to_builtins(value, str_keys=True, enc_hook=str)
    return builtin


def _print(one: KeptState) -> None:
    closed = (
        "nothing closed yet" if one.closed_until is None else f"closed up to {one.closed_until}"
    )
    shown = "" if len(one.rows) == one.rows_total else f", the first {len(one.rows):,} shown"
    click.echo(
        f"step {one.step}, {one.name}: {one.rows_total:,} {one.holds}{shown}, "
        f"{decimal(one.stored_bytes)} stored, {closed}"
    )
    if one.rows:
        table = Table()
        for column in one.rows[0]:
            table.add_column(column, overflow="fold")
        for row in one.rows:
            table.add_row(*(escape(_text(value)) for value in row.values()))
        wide_console().print(table)


def _text(value: object) -> str:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S.%f} UTC"
    if isinstance(value, dict):
        return ", ".join(f"{name or 'timer'} {_text(each)}" for name, each in value.items())
    return "–" if value is None else str(value)
