"""``millstream demo``: a year of real flights through log, batch, stream and queue."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click

from millstream.app import App
from millstream.cli.flights.data import refuse_missing_extra
from millstream.cli.flights.place import clear, marked
from millstream.cli.flights.screen import Screen
from millstream.cli.flights.stopping import stopped_by_signals
from millstream.primitives.clock import SYSTEM_CLOCK
from millstream.tasks.limits import CHILDREN_MAX


@click.command()
@click.option(
    "--store",
    type=click.Path(path_type=Path),
    default=Path("flights.mill"),
    show_default=True,
    help="Where the store is made. Nothing may be there but the store of an earlier demo.",
)
@click.option(
    "--picture",
    type=click.Path(path_type=Path),
    default=Path("flights.svg"),
    show_default=True,
    help="Where the picture is drawn.",
)
@click.option(
    "--flights",
    type=click.IntRange(min=1),
    help="Only the first N that left. [default: all 336,776 of 2013]",
    metavar="N",
)
@click.option(
    "--workers",
    type=click.IntRange(1, CHILDREN_MAX),
    default=2,
    show_default=True,
    metavar="N",
    help="Worker processes of the queue.",
)
def demo(store: Path, picture: Path, flights: int | None, workers: int) -> None:
    """Run real flights through log, batch, stream and queue.

    Takes the 336,776 departures from New York in 2013 and does with them what millstream is for, for real: on disk, in
    several processes, in well under a minute.

    \b
    1  Log     Appends every departure to a topic, in the order in which
               flights really left. Three groups read it meanwhile, each in
               a process of its own and at its own pace.
    2  Batch   Computes for each airline and hour how many flights there
               were and how late they left.
    3  Stream  Does the same again with the same flow, in small batches,
               and compares: the results must be equal, row for row.
    4  Queue   Worker processes resize pictures and send mails to a mail
               server inside the demo. One worker is killed in the middle;
               then everything is counted.

    In the end it shows where the time went, and leaves a picture of the busiest day. Nothing is sent to the network.
    A second run starts clean. Exits with 1 if anything is lost or unequal.
    """
    refuse_missing_extra()
    begun_s = SYSTEM_CLOCK.monotonic_s()
    screen = Screen()
    # Children get the path too, and a program may change its directory.
    store, picture = store.absolute(), picture.absolute()
    with (
        stopped_by_signals(),
        _told(),
        tempfile.TemporaryDirectory(prefix="millstream-demo-") as folder,
    ):
        if clear(store, picture):
            screen.say(f"The store of an earlier demo was removed: {store}")
        # Here and not above, so that --help needs nothing of the extra.
        from millstream.cli.flights.parts import run_parts

        with App("flights", store=store) as app:
            app.topics()  # Makes the store.
            with marked(store):
                run_parts(
                    app,
                    screen,
                    flights=flights,
                    workers=workers,
                    folder=Path(folder),
                    picture_path=picture,
                )
    screen.say(f"\nAll of it took {SYSTEM_CLOCK.monotonic_s() - begun_s:.1f} s.")


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        click.echo("Stopped. No process is left behind; the next run starts clean.", err=True)
        raise
