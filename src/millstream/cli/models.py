"""``millstream models``: what flows have learned, how wrong it is, and older versions of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime

import click
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from millstream.app import App
from millstream.cli.json_text import json_text
from millstream.cli.target import existing_store
from millstream.cli.wide import wide_console
from millstream.flows.models import ModelFigures, ModelStatus, ModelVersion


@click.command()
@click.argument("name", default=None, required=False)
@click.option(
    "--store",
    default=None,
    metavar="STORE",
    help="The directory of a store; without it the only *.mill here.",
)
@click.option("--rollback", type=click.IntRange(min=1), metavar="V", help="Go back to version V.")
@click.option("--delete", is_flag=True, help="Forget the model with all its versions.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def models(
    name: str | None, store: str | None, rollback: int | None, *, delete: bool, as_json: bool
) -> None:
    """List the models that flows train, or the versions of NAME.

    Errors are those of predictions that were made before their rows were learned.
    """
    if name is None and (rollback is not None or delete):
        raise click.UsageError("--rollback and --delete need the NAME of a model")
    if rollback is not None and delete:
        raise click.UsageError("--rollback and --delete exclude each other")
    with App("models", store=existing_store(store)) as app:
        if name is None:
            _print(app.models.all(), as_json=as_json)
            return
        if delete:
            app.models.delete(name)
            click.echo(f"Model {name} is forgotten.")
            return
        if rollback is not None:
            app.models.rollback(name, rollback)
            click.echo(f"Model {name} goes on from version {rollback}.", err=as_json)
        _print(app.models.versions(name), as_json=as_json)


def _print(found: Sequence[ModelStatus] | Sequence[ModelVersion], *, as_json: bool) -> None:
    if as_json:
        click.echo(json_text([asdict(one) for one in found]))
        return
    table = Table()
    rows = [_status(one) if isinstance(one, ModelStatus) else _version(one) for one in found]
    for column in rows[0] if rows else {"model": ""}:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row.values()))
    wide_console().print(table)


def _status(one: ModelStatus) -> dict[str, str]:
    kind = one.estimator.partition("(")[0].rpartition(".")[2]
    without = [
        f"{count:,} {what}"
        for what, count in (("without target", one.unlabelled), ("incomplete", one.incomplete))
        if count
    ]
    return {
        "model": one.name,
        "estimator": f"{kind}, {one.library}",
        "version": "–" if one.version is None else str(one.version),
        "rows": f"{one.rows:,}",
        "not learned": ", ".join(without) or "–",
        **_figures(one.figures),
        "by": f"{one.flow}, now" if one.is_training else one.flow,
    }


def _version(one: ModelVersion) -> dict[str, str]:
    made = datetime.fromtimestamp(one.made_us / 1e6, UTC)
    return {
        "version": f"{one.version}, current" if one.is_current else str(one.version),
        "made": f"{made:%Y-%m-%d %H:%M:%S} UTC",
        "rows": f"{one.rows:,}",
        **_figures(one.figures),
        "size": decimal(one.size_bytes),
    }


def _figures(figures: ModelFigures) -> dict[str, str]:
    drifts = "–" if figures.drifts is None else f"{figures.drifts:,}"
    if figures.drifted_at is not None:
        drifts += f", last at row {figures.drifted_at:,}"
    return {
        "error": _number(figures.error),
        "RMSE": _number(figures.rmse),
        "log loss": _number(figures.log_loss),
        "baseline": _number(figures.baseline),
        "last window": _number(figures.recent[-1] if figures.recent else None),
        "drifts": drifts,
    }


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
