"""``millstream check``: is everything in a store as it was committed?"""

from __future__ import annotations

import sys

import click
from rich.filesize import decimal

from millstream.cli.target import existing_store
from millstream.engines.local.check import inspect


@click.command()
@click.argument("store", default=None, required=False)
def check(store: str | None) -> None:
    """Verify every checksum and invariant of a store; other processes may use it meanwhile.

    STORE is the directory of a store; without it the only ``*.mill`` here. Nothing is changed. Exits with 0 if
    everything is as it was committed, with 1 and what is wrong where if not.
    """
    path = existing_store(store)
    report = inspect(path)
    for finding in report.findings:
        click.echo(f"{finding.what}\n  where: {finding.where}")
    totals = report.totals
    summary = ", ".join(
        f"{totals[name]:,} {name}"
        for name in ("topics", "partitions", "frames", "events", "catalog pages")
    )
    click.echo(f"{path}: read {summary}, {decimal(totals['bytes'])} of frames.")
    if totals["left-over files"]:
        click.echo(
            f"{totals['left-over files']} files are left over from a crash; opening removes them."
        )
    if report.findings:
        click.echo(f"{len(report.findings)} faults. Keep a copy, and restore a backup.")
        sys.exit(1)
    click.echo("Everything is as it was committed.")
