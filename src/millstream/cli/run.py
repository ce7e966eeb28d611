"""``millstream run``: a flow as a batch, to the end of what is there."""

from __future__ import annotations

import click

from millstream.cli.flow_session import opened_flow, shown_progress
from millstream.primitives.errors import PlanError


@click.command()
@click.argument("flow", metavar="MODULE:FLOW")
@click.option(
    "--memory", metavar="SIZE", help="What steps hold beyond it goes to disk: 500MB, 2GiB."
)
def run(flow: str, memory: str | None) -> None:
    """Run a flow as a batch: all there is now, to its end. The output appears whole or not at all.

    MODULE:FLOW names a flow in a module, or a function without arguments that returns one. Shows a progress bar on a
    terminal, and the report when it is done.
    """
    with opened_flow(flow) as found, shown_progress(found.name) as progress:
        if not (found.plan.is_ended or found.plan.trained):
            raise PlanError(
                "the flow has nowhere to put its output, and a command would throw it away",
                where=f"{flow}, write",
                expected="a topic, a file, a directory, a table, a webhook or a task",
                next_step='end the flow with .write("…") or .enqueue(task); Python gets the rows with collect()',
            )
        report = found.run(progress=progress, memory=memory)
    click.echo(str(report))
