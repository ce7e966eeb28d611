"""A flow that a command names, its apps closed afterwards; and its progress on a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from millstream.cli.target import load_flow

if TYPE_CHECKING:
    from millstream.flows.flow import Flow
    from millstream.flows.report import Progress, ProgressListener


@contextmanager
def opened_flow(target: str) -> Iterator[Flow]:
    """Import a flow; close the apps of its module afterwards. Raises ConfigurationError."""
    flow, apps = load_flow(target)
    try:
        yield flow
    finally:
        for app in apps:
            app.close()


@contextmanager
def shown_progress(name: str) -> Iterator[ProgressListener | None]:
    """Show rows done, and how long it may take, if the errors' stream is a terminal; None otherwise."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (TextColumn(name), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task(name, total=None)

        def show(progress: Progress) -> None:
            bar.update(task, completed=progress.rows_done, total=progress.rows_total)

        yield show
