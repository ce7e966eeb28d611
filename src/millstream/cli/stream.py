"""``millstream stream``: a flow as a stream, until it is told to stop."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from types import FrameType

import click

from millstream.cli.flow_session import opened_flow, shown_progress
from millstream.cli.stream_workers import StreamWorkers
from millstream.flows.limits import BATCH_EVENTS


@click.command()
@click.argument("flow", metavar="MODULE:FLOW")
@click.option("--until-end", is_flag=True, help="End at what is there now, and close all windows.")
@click.option("--until-now", is_flag=True, help="End at what is there now; the next run goes on.")
@click.option(
    "--batch-events",
    type=click.IntRange(min=1),
    default=BATCH_EVENTS,
    show_default=True,
    help="How many events a micro-batch takes at most.",
)
@click.option(
    "--idle",
    metavar="DURATION",
    help="A partition without events for so long (30s, 5m …) holds no window open.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Share the flow among so many processes, by the partitions of its topics.",
)
@click.option("--shared", is_flag=True, help="Share the flow with other processes that do.")
@click.option("--member", is_flag=True, hidden=True)
def stream(
    flow: str,
    until_end: bool,
    until_now: bool,
    batch_events: int,
    idle: str | None,
    workers: int | None,
    shared: bool,
    member: bool,
) -> None:
    """Run a flow as a stream, exactly once, from where the flow of that name has come to.

    MODULE:FLOW names a flow in a module, or a function without arguments that returns one. SIGTERM and Ctrl-C stop it
    behind the commit of the micro-batch it works on; the next one goes on from there. A second Ctrl-C ends it at once,
    which loses nothing either. Shows the report when it ends.

    With --workers, N processes share the flow; one that is killed is started again, and the others go on with its
    partitions meanwhile. More may share it from elsewhere, with --shared.
    """
    if until_end and until_now:
        raise click.UsageError("--until-end and --until-now exclude each other")
    if workers is not None:
        options = ["--shared", "--member", "--batch-events", str(batch_events)]
        options += ["--until-end"] if until_end else []
        options += ["--until-now"] if until_now else []
        options += [] if idle is None else ["--idle", idle]
        command = [sys.executable, "-m", "millstream", "stream", flow, *options]
        sys.exit(StreamWorkers(command, workers).run())
    stop = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        stop.set()
        signal.signal(number, signal.default_int_handler)

    with contextlib.ExitStack() as stack:
        found = stack.enter_context(opened_flow(flow))
        # The bars of several processes would be drawn over each other.
        progress = None if member else stack.enter_context(shown_progress(found.name))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, end)
        report = found.stream(
            until="end" if until_end else "now" if until_now else None,
            batch_events=batch_events,
            idle=idle,
            shared=shared,
            stop=stop,
            progress=progress,
        )
    click.echo(str(report))
