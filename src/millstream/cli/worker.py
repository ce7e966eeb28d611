"""``millstream worker``: processes that run tasks."""

from __future__ import annotations

import os
import sys
import traceback
from dataclasses import replace
from random import Random

import click

from millstream.app import App
from millstream.cli.target import load_app
from millstream.engines.local.task_schedules import ScheduleDuty
from millstream.engines.local.worker import Worker, WorkerSettings
from millstream.engines.local.worker_child import EXIT_RECYCLED, run_child
from millstream.engines.local.worker_many import ManyWorker
from millstream.engines.local.worker_pool import PoolKind
from millstream.engines.local.worker_supervisor import CHILD_REFUSED, Supervisor
from millstream.primitives.clock import SYSTEM_CLOCK
from millstream.primitives.duration import duration_us
from millstream.primitives.errors import MillstreamError
from millstream.tasks.limits import CONCURRENCY_MAX, LEASE_US
from millstream.tasks.options import QUEUE_DEFAULT


@click.command()
@click.option(
    "-A", "--app", "target", required=True, metavar="MODULE:APP", help="Where the app is."
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, CONCURRENCY_MAX),
    default=os.cpu_count() or 1,
    show_default="one a core",
    help="Tasks at the same time.",
)
@click.option(
    "--pool",
    type=click.Choice([kind.value for kind in PoolKind]),
    default=PoolKind.PROCESS.value,
    show_default=True,
    help="What runs them: processes, threads, coroutines, or this process alone.",
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
@click.option(
    "--max-tasks-per-child",
    type=click.IntRange(min=1),
    metavar="N",
    help="Replace a process of the pool by a new one after so many tasks. Only with --pool process.",
)
@click.option("--child", is_flag=True, hidden=True)
@click.option("--quiet", is_flag=True, hidden=True)
def worker(  # noqa: PLR0913 - one for each option of the command
    target: str,
    concurrency: int,
    pool: str,
    queues: str | None,
    burst: bool,
    lease: str,
    max_tasks_per_child: int | None,
    child: bool,
    quiet: bool,
) -> None:
    """Run the tasks of an app until stopped.

    Ctrl-C or SIGTERM lets every task that runs come to its end; a second one, or SIGQUIT, stops at once, and those
    tasks go back to their queue.
    """
    kind = PoolKind(pool)
    if max_tasks_per_child is not None and kind is not PoolKind.PROCESS:
        raise click.UsageError("--max-tasks-per-child needs --pool process")
    duration_us(lease)  # Refused here once, not by each child.
    if not child and kind is not PoolKind.SOLO:
        command = [sys.executable, "-m", "millstream", "worker", "--child", "-A", target]
        command += ["--lease", lease] + (["--queues", queues] if queues is not None else [])
        command += ["--burst"] if burst else []
        command += ["--pool", pool, "--concurrency", str(concurrency)]
        if max_tasks_per_child is not None:
            command += ["--max-tasks-per-child", str(max_tasks_per_child)]
        children = concurrency if kind is PoolKind.PROCESS else 1
        sys.exit(Supervisor(command, children, SYSTEM_CLOCK, _say).run())
    app, settings = _prepared(target, queues, burst=burst, lease=lease, quiet=quiet)
    with app, ScheduleDuty(app.tasks_engine.store, report=_say):
        settings = replace(settings, tasks_max=max_tasks_per_child)
        runs = _worker_of(app, settings, kind, concurrency)
        run_child(runs, control=0 if child else None)
    if isinstance(runs, Worker) and runs.is_used_up:
        sys.exit(EXIT_RECYCLED)


def _say(line: str) -> None:
    click.echo(line, err=True)


def _worker_of(
    app: App, settings: WorkerSettings, kind: PoolKind, concurrency: int
) -> Worker | ManyWorker:
    engine, tasks = app.tasks_engine, app.tasks
    # Each process spreads its retries by chance of its own.
    chance = Random(int.from_bytes(os.urandom(8)))
    if kind in {PoolKind.PROCESS, PoolKind.SOLO}:
        return Worker(engine, tasks, settings, chance=chance)
    return ManyWorker(engine, tasks, settings, kind=kind, concurrency=concurrency, chance=chance)


def _prepared(
    target: str, queues: str | None, *, burst: bool, lease: str, quiet: bool
) -> tuple[App, WorkerSettings]:
    """Return the app and what its workers do; a child that cannot start says why and exits with CHILD_REFUSED."""
    try:
        app = load_app(target)
        settings = WorkerSettings(
            queues=queues_of(app, queues), burst=burst, lease_us=duration_us(lease)
        )
        changes = app.schedules.synchronise()
        if changes:
            click.echo(f"schedules {changes}", err=True)
    except Exception as error:  # noqa: BLE001 - importing the app runs its author's code
        if isinstance(error, MillstreamError) and not quiet:
            click.echo(f"{type(error).__name__}: {error}", err=True)
        elif not quiet:
            traceback.print_exc()  # The module of the app raised: its author needs the traceback.
        sys.exit(CHILD_REFUSED)
    return app, settings


def queues_of(app: App, names: str | None) -> tuple[str, ...]:
    """Return the queues that are named, or all that the app's tasks use, sorted."""
    if names is not None:
        return tuple(dict.fromkeys(name.strip() for name in names.split(",")))
    return tuple(
        sorted({QUEUE_DEFAULT} | {app.tasks.get(name).options.queue for name in app.tasks.names()})
    )
