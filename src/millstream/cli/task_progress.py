"""How far a running task is, as a bar: once, or as it goes on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.progress_bar import ProgressBar

from millstream.tasks.arguments import decode_plain
from millstream.tasks.message import Progress, TaskStatus

_BAR_WIDTH = 30


def show_progress(console: Console, progress: Progress) -> None:
    """Print what a task told last."""
    meta = decode_plain(progress.meta)
    console.print(
        f"{'progress':>10}  {escape(progress.state)} {escape(repr(meta))}", highlight=False
    )
    counts = _counts(meta)
    if counts is not None:
        console.print(ProgressBar(total=counts[1], completed=counts[0], width=_BAR_WIDTH))


def follow_progress(
    console: Console, changes: Iterable[tuple[TaskStatus, Progress | None]]
) -> TaskStatus | None:
    """Draw a bar that moves with each change, until there is none; return the last status."""
    status = None
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[told]}"),
    )
    with Bars(*columns, console=console) as bars:
        bar = bars.add_task("", total=None, told="")
        for status, progress in changes:
            description = f"{escape(status.name)} {status.state}"
            if progress is None:
                bars.update(bar, description=description)
                continue
            meta = decode_plain(progress.meta)
            counts = _counts(meta)
            told = escape(progress.state if counts is None else str(_message(meta)))
            current, total = counts or (0, None)
            bars.update(bar, description=description, completed=current, total=total, told=told)
    return status


def _counts(meta: object) -> tuple[float, float] | None:
    """Return ``current`` and ``total``, if the task told both."""
    if not isinstance(meta, Mapping):
        return None
    current, total = meta.get("current"), meta.get("total")
    if isinstance(current, int | float) and isinstance(total, int | float) and total > 0:
        return current, total
    return None


def _message(meta: object) -> object:
    """Return the words that were told beside the numbers."""
    return meta.get("message", "") if isinstance(meta, Mapping) else ""
