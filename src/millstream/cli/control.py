"""``millstream control``: ask the workers that live for something."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from millstream.app import App
from millstream.cli.target import existing_store
from millstream.primitives.duration import duration_us
from millstream.tasks.limits import CHILDREN_MAX
from millstream.tasks.workers import WorkerControl

F = TypeVar("F", bound=Callable[..., Any])


@click.group()
def control() -> None:
    """End workers in order, and change the size of their pools, from anywhere on the machine.

    STORE is the directory of a store; without it the only ``*.mill`` here.
    """


def _of_store(function: F) -> F:
    function = click.option(
        "-d",
        "--destination",
        "nodes",
        multiple=True,
        metavar="WORKER",
        help="Only this one, as `millstream inspect ping` names it; may be repeated.",
    )(function)
    return click.argument("store", default=None, required=False)(function)


def _tell(store: str | None, ask: Callable[[WorkerControl], list[str]]) -> None:
    with App("control", store=existing_store(store)) as app:
        asked = ask(app.workers)
    click.echo("\n".join(asked) if asked else "No worker runs.")


@control.command()
@_of_store
@click.option("--wait", metavar="DURATION", help="Wait until they have ended, at most so long.")
def shutdown(store: str | None, nodes: tuple[str, ...], wait: str | None) -> None:
    """Let workers finish what runs, and end; prints which were asked."""
    timeout_s = None if wait is None else duration_us(wait) / 1_000_000
    _tell(store, lambda workers: workers.shutdown(nodes or None, timeout_s=timeout_s))


@control.command()
@click.argument("bounds", metavar="MAX,MIN")
@_of_store
def autoscale(bounds: str, store: str | None, nodes: tuple[str, ...]) -> None:
    """Let pools have as many processes as tasks need, between MIN and MAX; equal ones fix the size."""
    most, _, fewest = bounds.partition(",")
    if not (most.isdecimal() and fewest.isdecimal()):
        raise click.UsageError(f"{bounds!r} is not MAX,MIN, as in 10,3")
    _tell(store, lambda workers: workers.autoscale(int(most), int(fewest), nodes or None))


@control.command("enable_events")
@click.argument("store", default=None, required=False)
def enable_events(store: str | None) -> None:
    """Record every change of a task from now on, for `millstream events`."""
    with App("control", store=existing_store(store)) as app:
        enabled = app.events.enable()
    click.echo("Changes are recorded." if enabled else "Changes were recorded already.")


@control.command("disable_events")
@click.argument("store", default=None, required=False)
def disable_events(store: str | None) -> None:
    """Record changes of tasks no more."""
    with App("control", store=existing_store(store)) as app:
        disabled = app.events.disable()
    click.echo("Nothing is recorded any more." if disabled else "Nothing was recorded.")


@control.command("pool_grow")
@click.argument("count", metavar="N", type=click.IntRange(1, CHILDREN_MAX))
@_of_store
def pool_grow(count: int, store: str | None, nodes: tuple[str, ...]) -> None:
    """Let pools have N processes more."""
    _tell(store, lambda workers: workers.pool_grow(count, nodes or None))


@control.command("pool_shrink")
@click.argument("count", metavar="N", type=click.IntRange(1, CHILDREN_MAX))
@_of_store
def pool_shrink(count: int, store: str | None, nodes: tuple[str, ...]) -> None:
    """Let pools have N processes fewer, but one; each finishes what it runs."""
    _tell(store, lambda workers: workers.pool_shrink(count, nodes or None))
