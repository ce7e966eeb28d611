"""``millstream worker``: processes that run tasks."""

from __future__ import annotations

import os
import platform
import sys
import traceback
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random

import click

from millstream.app import App
from millstream.cli.target import load_app
from millstream.engines.local.process_memory import refuse_unreadable_memory
from millstream.engines.local.task_schedules import ScheduleDuty
from millstream.engines.local.worker import Worker, WorkerSettings
from millstream.engines.local.worker_child import EXIT_RECYCLED, run_child
from millstream.engines.local.worker_kind import PoolKind
from millstream.engines.local.worker_limits import limit_keeper, refuse_unfit_tasks
from millstream.engines.local.worker_many import ManyWorker
from millstream.engines.local.worker_reports import Marked, Reporter, Sources, from_handle
from millstream.engines.local.worker_sources import imported_sources, new_sources
from millstream.engines.local.worker_supervisor import CHILD_REFUSED, Supervisor
from millstream.primitives.clock import SYSTEM_CLOCK
from millstream.primitives.duration import duration_us
from millstream.primitives.errors import ConfigurationError, MillstreamError
from millstream.primitives.size import size_bytes
from millstream.tasks.attempt_limits import AttemptLimits, checked
from millstream.tasks.autoscale import PoolBounds
from millstream.tasks.limits import AUTOSCALE_KEEPALIVE_US, CONCURRENCY_MAX, LEASE_US
from millstream.tasks.options import QUEUE_DEFAULT, seconds_us
from millstream.tasks.workers import WorkerProfile


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
@click.option(
    "--max-memory-per-child",
    metavar="SIZE",
    help="Replace it likewise when it takes more memory: 200MB. Only with --pool process.",
)
@click.option(
    "--time-limit",
    metavar="DURATION",
    help="Hard time limit of tasks that name none: seconds, or 5m. Only with --pool process.",
)
@click.option(
    "--soft-time-limit",
    metavar="DURATION",
    help="Soft time limit of tasks that name none: seconds, or 4m30s.",
)
@click.option(
    "--autoscale",
    metavar="MAX,MIN",
    help="As many processes as tasks need, between these. Only with --pool process.",
)
@click.option(
    "--autoscale-keepalive",
    default=f"{AUTOSCALE_KEEPALIVE_US // 1_000_000}s",
    show_default=True,
    metavar="DURATION",
    help="How long processes have nothing to do before there are fewer.",
)
@click.option(
    "--reload", "reloads", is_flag=True, help="Replace processes when a source file changes."
)
@click.option("--child", is_flag=True, hidden=True)
@click.option("--quiet", is_flag=True, hidden=True)
@click.option("--reports", type=int, hidden=True)
@click.option("--node", default="", hidden=True)
def worker(  # noqa: PLR0913 - one for each option of the command
    target: str,
    concurrency: int,
    pool: str,
    queues: str | None,
    burst: bool,
    lease: str,
    max_tasks_per_child: int | None,
    max_memory_per_child: str | None,
    time_limit: str | None,
    soft_time_limit: str | None,
    autoscale: str | None,
    autoscale_keepalive: str,
    reloads: bool,
    child: bool,
    quiet: bool,
    reports: int | None,
    node: str,
) -> None:
    """Run the tasks of an app until stopped.

    Ctrl-C or SIGTERM lets every task that runs come to its end; a second one, or SIGQUIT, stops at once, and those
    tasks go back to their queue.
    """
    kind = PoolKind(pool)
    of_processes = {
        "--max-tasks-per-child": max_tasks_per_child,
        "--max-memory-per-child": max_memory_per_child,
        "--time-limit": time_limit,
    }
    _refuse_unfit(kind, of_processes, autoscale=autoscale, reload=reloads)
    duration_us(lease)  # Refused here once, not by each child.
    limits = _default_limits(soft_time_limit, time_limit)
    memory_bytes_max = _memory_bytes_max(max_memory_per_child)
    if not child and kind is not PoolKind.SOLO:
        command = [*_command(reload=reloads), "--child", "-A", target]
        command += ["--node", f"{platform.node()}:{os.getpid()}"]
        command += ["--lease", lease, *_given("--queues", queues)]
        command += ["--burst"] if burst else []
        command += ["--pool", pool, "--concurrency", str(concurrency)]
        command += _given("--max-tasks-per-child", max_tasks_per_child)
        command += _given("--max-memory-per-child", max_memory_per_child)
        command += _given("--time-limit", time_limit) + _given("--soft-time-limit", soft_time_limit)
        supervisor = Supervisor(
            command,
            _bounds(kind, concurrency, autoscale),
            SYSTEM_CLOCK,
            _say,
            keepalive_us=duration_us(autoscale_keepalive),
            reload=reloads,
        )
        sys.exit(supervisor.run())
    reporter = None if reports is None else Reporter(from_handle(reports))
    told = reporter if reloads else None
    app, settings = _prepared(
        target, queues, kind, burst=burst, lease=lease, quiet=quiet, reporter=told
    )
    settings = replace(
        settings,
        tasks_max=max_tasks_per_child,
        memory_bytes_max=memory_bytes_max,
        profile=_profile_of(app, kind, node=node, concurrency=concurrency),
    )
    app.signals.worker_process_init.send(settings.process)
    with app, ScheduleDuty(app.tasks_engine.store, report=_say):
        runs = _worker_of(app, settings, kind, concurrency, limits, reporter)
        run_child(runs, control=0 if child else None, reporter=reporter)
    app.signals.worker_process_shutdown.send(settings.process)
    if isinstance(runs, Worker) and runs.is_used_up:
        sys.exit(EXIT_RECYCLED)


def _profile_of(app: App, kind: PoolKind, *, node: str, concurrency: int) -> WorkerProfile:
    """Return what a worker process says of itself."""
    return WorkerProfile(
        node=node,
        pool=kind.value,
        concurrency=concurrency if kind in {PoolKind.THREAD, PoolKind.ASYNC} else 1,
        tasks=tuple(app.tasks.names()),
    )


def _command(*, reload: bool) -> list[str]:
    # -B: a file that changes twice within a second must not be taken from the cache of the first change.
    if reload:
        return [sys.executable, "-B", "-m", "millstream", "worker", "--reload"]
    return [sys.executable, "-m", "millstream", "worker"]


def _refuse_unfit(
    kind: PoolKind, of_processes: Mapping[str, object], *, autoscale: str | None, reload: bool
) -> None:
    for option, value in of_processes.items():
        if value is not None and kind is not PoolKind.PROCESS:
            raise click.UsageError(f"{option} needs --pool process")
    if autoscale is not None and kind is not PoolKind.PROCESS:
        raise click.UsageError(
            "--autoscale needs --pool process; a thread or coroutine that waits costs nothing, "
            "so --concurrency MAX does the same"
        )
    if reload and kind is PoolKind.SOLO:
        raise click.UsageError("--reload needs a supervisor: any --pool but solo")


def _bounds(kind: PoolKind, concurrency: int, autoscale: str | None) -> PoolBounds:
    """Return how many processes there may be. Raises ConfigurationError."""
    if kind is not PoolKind.PROCESS:
        return PoolBounds(1, 1)
    if autoscale is None:
        return PoolBounds(concurrency, concurrency)
    most, _, fewest = autoscale.partition(",")
    try:
        return PoolBounds(int(most), int(fewest or 1))
    except ValueError:
        raise ConfigurationError(
            f"--autoscale {autoscale!r} cannot be understood",
            expected="the most and the fewest processes, as in 10,3",
        ) from None


def _say(line: str) -> None:
    click.echo(line, err=True)


def _given(option: str, value: str | int | None) -> list[str]:
    return [] if value is None else [option, str(value)]


def _memory_bytes_max(size: str | None) -> int | None:
    if size is None:
        return None
    refuse_unreadable_memory("--max-memory-per-child")
    return size_bytes(size)


def _default_limits(soft: str | None, hard: str | None) -> AttemptLimits:
    """Return the time limits of tasks that name none. Raises ConfigurationError."""
    soft_us, hard_us = (None if value is None else _limit_us(value) for value in (soft, hard))
    return checked(AttemptLimits(soft_us=soft_us, hard_us=hard_us), where="millstream worker")


def _limit_us(value: str) -> int:
    try:
        return seconds_us(float(value))  # As Celery's.
    except ValueError:
        return duration_us(value)


def _worker_of(
    app: App,
    settings: WorkerSettings,
    kind: PoolKind,
    concurrency: int,
    defaults: AttemptLimits,
    reporter: Reporter | None,
) -> Worker | ManyWorker:
    engine, tasks = app.tasks_engine, app.tasks
    # Each process spreads its retries by chance of its own.
    chance = Random(int.from_bytes(os.urandom(8)))
    limits = limit_keeper(tasks, SYSTEM_CLOCK, chance, kind, defaults)
    if reporter is not None:
        limits.on_mark = partial(_tell_mark, reporter)
    if kind in {PoolKind.PROCESS, PoolKind.SOLO}:
        limits.install()
        return Worker(engine, tasks, settings, chance=chance, limits=limits, report=_say)
    return ManyWorker(
        engine,
        tasks,
        settings,
        kind=kind,
        concurrency=concurrency,
        chance=chance,
        limits=limits,
        report=_say,
    )


def _tell_mark(reporter: Reporter, path: Path) -> None:
    # Before the first task: one that never gives the interpreter's lock back would keep it from being told.
    reporter.tell_now(Marked(str(path)))


def _prepared(
    target: str,
    queues: str | None,
    kind: PoolKind,
    *,
    burst: bool,
    lease: str,
    quiet: bool,
    reporter: Reporter | None,
) -> tuple[App, WorkerSettings]:
    """Return the app and what its workers do; a child that cannot start says why and exits with CHILD_REFUSED.

    The ``reporter`` is told which source files were imported, now and when there are more.
    """
    module_name = target.partition(":")[0]
    try:
        app = load_app(target)
        settings = WorkerSettings(
            queues=queues_of(app, queues), burst=burst, lease_us=duration_us(lease)
        )
        refuse_unfit_tasks(app.tasks, kind, settings.queues)
        changes = app.schedules.synchronise()
        if changes:
            click.echo(f"schedules {changes}", err=True)
    except Exception as error:  # noqa: BLE001 - importing the app runs its author's code
        if isinstance(error, MillstreamError) and not quiet:
            click.echo(f"{type(error).__name__}: {error}", err=True)
        elif not quiet:
            traceback.print_exc()  # The module of the app raised: its author needs the traceback.
        if reporter is not None:
            reporter.tell(Sources(imported_sources(module_name, error)))
            reporter.close()
        sys.exit(CHILD_REFUSED)
    if reporter is not None:
        reporter.tell_regularly(new_sources(module_name))
    return app, settings


def queues_of(app: App, names: str | None) -> tuple[str, ...]:
    """Return the queues that are named, or all that the app's tasks use, sorted."""
    if names is not None:
        return tuple(dict.fromkeys(name.strip() for name in names.split(",")))
    return tuple(
        sorted({QUEUE_DEFAULT} | {app.tasks.get(name).options.queue for name in app.tasks.names()})
    )
