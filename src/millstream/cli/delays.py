"""``millstream delays``: the four delays as a table with a bar a row."""

from __future__ import annotations

import click
from rich.console import Console

from millstream.app import App
from millstream.cli.target import existing_store
from millstream.observability.delays import delays_table


@click.command()
@click.argument("store", default=None, required=False)
@click.option("--since", metavar="DURATION", help="Only the last 10m, 2h, 7d …")
def delays(store: str | None, since: str | None) -> None:
    """Show where the time went: the four delays of batches, streams and tasks.

    Until source data came, until processing began, the processing, and until the result could be seen.

    STORE is the directory of a store; without it the only ``*.mill`` here.
    """
    with App("delays", store=existing_store(store)) as app:
        found = app.delays(since=since)
    if not found:
        click.echo("Nothing was run yet in this store, or not in that time.")
        return
    Console().print(delays_table(found))
