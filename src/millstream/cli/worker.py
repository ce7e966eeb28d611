"""``millstream worker``: processes that run tasks."""

from __future__ import annotations

import os
import sys
import traceback
from random import Random

import click

from millstream.app import App
from millstream.cli.target import load_app
from millstream.engines.local.task_schedules import ScheduleDuty
from millstream.engines.local.worker import Worker, WorkerSettings
from millstream.engines.local.worker_child import run_child
from millstream.engines.local.worker_supervisor import CHILD_REFUSED, Supervisor
from millstream.primitives.clock import SYSTEM_CLOCK
from millstream.primitives.duration import duration_us
from millstream.primitives.errors import MillstreamError
from millstream.tasks.limits import CHILDREN_MAX, LEASE_US
from millstream.tasks.options import QUEUE_DEFAULT


@click.command()
@click.option(
    "-A", "--app", "target", required=True, metavar="MODULE:APP", help="Where the app is."
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, CHILDREN_MAX),
    default=os.cpu_count() or 1,
    show_default="one a core",
    help="Processes; each runs one task at a time.",
)
@click.option(
    "--queues", metavar="NAMES", help="Only these queues, with commas. [default: all of the app]"
)
@click.option(
    "--burst", is_flag=True, help="Stop when nothing is queued, running or to be retried."
)
@click.option(
    "--lease",
    default=f"{LEASE_US // 1_000_000}s",
    show_default=True,
    help="A worker that shows no sign of life for so long loses its task to another.",
)
@click.option("--child", is_flag=True, hidden=True)
@click.option("--quiet", is_flag=True, hidden=True)
def worker(
    target: str,
    concurrency: int,
    queues: str | None,
    burst: bool,
    lease: str,
    child: bool,
    quiet: bool,
) -> None:
    """Run the tasks of an app until stopped.

    Ctrl-C or SIGTERM lets every task that runs come to its end; a second one stops at once, and those tasks go back to
    their queue.
    """
    if not child:
        duration_us(lease)  # Refused here once, not by each child.
        command = [sys.executable, "-m", "millstream", "worker", "--child", "-A", target]
        command += ["--lease", lease] + (["--queues", queues] if queues is not None else [])
        command += ["--burst"] if burst else []
        supervisor = Supervisor(
            command, concurrency, SYSTEM_CLOCK, lambda line: click.echo(line, err=True)
        )
        sys.exit(supervisor.run())
    app, here = _prepared(target, queues, burst=burst, lease=lease, quiet=quiet)
    with app, ScheduleDuty(app.tasks_engine.store, report=lambda line: click.echo(line, err=True)):
        run_child(here)


def _prepared(
    target: str, queues: str | None, *, burst: bool, lease: str, quiet: bool
) -> tuple[App, Worker]:
    """Return app and worker, ready to run; a child that cannot start says why and exits with CHILD_REFUSED."""
    try:
        app = load_app(target)
        settings = WorkerSettings(
            queues=queues_of(app, queues), burst=burst, lease_us=duration_us(lease)
        )
        # Each process spreads its retries by chance of its own.
        chance = Random(int.from_bytes(os.urandom(8)))
        changes = app.schedules.synchronise()
        if changes:
            click.echo(f"schedules {changes}", err=True)
        return app, Worker(app.tasks_engine, app.tasks, settings, chance=chance)
    except Exception as error:  # noqa: BLE001 - importing the app runs its author's code
        if isinstance(error, MillstreamError) and not quiet:
            click.echo(f"{type(error).__name__}: {error}", err=True)
        elif not quiet:
            traceback.print_exc()  # The module of the app raised: its author needs the traceback.
        sys.exit(CHILD_REFUSED)


def queues_of(app: App, names: str | None) -> tuple[str, ...]:
    """Return the queues that are named, or all that the app's tasks use, sorted."""
    if names is not None:
        return tuple(dict.fromkeys(name.strip() for name in names.split(",")))
    return tuple(
        sorted({QUEUE_DEFAULT} | {app.tasks.get(name).options.queue for name in app.tasks.names()})
    )
