"""``millstream topics``: what is in the log, and how far its readers are."""

from __future__ import annotations

import click
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from millstream.app import App
from millstream.cli.target import existing_store


@click.command()
@click.argument("store", default=None, required=False)
def topics(store: str | None) -> None:
    """List the topics of a store: partitions, events, bytes, and each group's lag.

    STORE is the directory of a store; without it the only ``*.mill`` here.
    """
    table = Table(title_justify="left")
    table.add_column("topic")
    for column in ("partitions", "events", "size"):
        table.add_column(column, justify="right")
    table.add_column("group")
    table.add_column("lag", justify="right")
    with App("topics", store=existing_store(store)) as app:
        log = app.log_engine
        for name in app.topics():
            info = log.topic(name)
            events = sum(end - first for first, end in log.ends(info))
            head = [name, f"{info.partitions:,}", f"{events:,}", decimal(log.size_bytes(info))]
            groups = [
                (group, f"{sum(lag.events for lag in lags):,}")
                for group, lags in sorted(log.lag(info).items())
            ]
            for group, lag in groups or [("–", "–")]:
                table.add_row(*head, group, lag)
                head = [""] * 4
    Console().print(table)
