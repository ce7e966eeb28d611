"""``millstream figures``: how a stream is doing."""

from __future__ import annotations

from dataclasses import asdict

import click
import msgspec

from millstream.cli.flow_session import opened_flow
from millstream.cli.json_text import json_text
from millstream.flows.figures import FlowFigures


@click.command()
@click.argument("flow", metavar="MODULE:FLOW")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def figures(flow: str, *, as_json: bool) -> None:
    """Show how a stream is doing: what each step got, gave and took, how busy it is, what waits, how far it is behind.

    As the last commit left it, whether a process streams the flow now or not; then of its last run. Nothing is changed.
    MODULE:FLOW names a flow in a module, or a function without arguments that returns one.
    """
    with opened_flow(flow) as found:
        told = found.figures()
    click.echo(json_text(_facts(told)) if as_json else str(told))


def _facts(told: FlowFigures) -> object:
    """Return the figures as JSON has them, times in ISO 8601, with what is computed from them."""
    facts = asdict(told)
    for name in ("load", "recent"):
        load = getattr(told, name)
        facts[name] |= {"busy": load.busy, "rows_per_s": load.rows_per_s}
    for step, one in zip(facts["steps"], told.steps, strict=True):
        step["selectivity"] = one.selectivity
    facts["waiting"], facts["behind"] = told.waiting, told.behind
    facts["watermark_lag_us"] = told.watermark_lag_us
    builtin: object = msgspec.to_builtins(facts)
    return builtin
