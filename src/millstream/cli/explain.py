"""``millstream explain``: the plan of a flow as text."""

from __future__ import annotations

import click

from millstream.cli.flow_session import opened_flow


@click.command()
@click.argument("flow", metavar="MODULE:FLOW")
def explain(flow: str) -> None:
    """Show what a flow does, step by step, with the columns that each step gives. Nothing runs.

    MODULE:FLOW names a flow in a module, or a function without arguments that returns one.
    """
    with opened_flow(flow) as found:
        click.echo(found.explain())
