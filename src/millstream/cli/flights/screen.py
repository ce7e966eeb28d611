"""What a person sees: headings, facts, bars that move on a terminal, and plain lines everywhere else."""

from __future__ import annotations

import contextlib
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

Advance = Callable[[int], None]
"""Told how much is done in all."""

_PLAIN_WIDTH = 120
_WIDTH_MAX = 110
_LABEL_WIDTH, _ROOM_MIN = 9, 20
_FIGURE = re.compile(r"(?<=\d) (?=[a-zA-Zµ]{1,3}\b)")
"""The space between a figure and its unit, where no line ends."""
_HOLD = "\0"
_NO_BREAK = "\N{NO-BREAK SPACE}"
_UNBROKEN_FIGURE = re.compile(r"(?<!·) ")
"""A cell of a table may be broken between two figures (``1 ms · 2 ms``), and nowhere else."""


class Screen:
    """Writes to standard output. One thread."""

    def __init__(self) -> None:
        """Find out whether a person watches."""
        with contextlib.suppress(AttributeError):
            # A pipe that cannot show a tick gets a question mark, and not an error.
            sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # Not on every kind of stream.
        self.console = Console(highlight=False)
        if not self.console.is_terminal:
            self.console = Console(highlight=False, width=_PLAIN_WIDTH)

    def say(self, text: str) -> None:
        """Show a sentence."""
        self.console.print(escape(text), soft_wrap=True)

    def heading(self, text: str) -> None:
        """Begin a part."""
        self.console.print(f"\n[bold]{escape(text)}[/bold]")

    def fact(self, label: str, text: str) -> None:
        """Show one fact; what does not fit in a line goes on below its beginning."""
        self._lines(label, text, width=_LABEL_WIDTH, style="dim")

    def whole(self, label: str, text: str) -> None:
        """Show a path or a command: something to copy, so it is never broken into lines of ours."""
        self.console.print(f"  [dim]{label:<{_LABEL_WIDTH}}[/dim] {escape(text)}", soft_wrap=True)

    def good(self, text: str) -> None:
        """Show something that was checked and is as it should be."""
        self._lines("✓", text, width=1, style="green")

    def note(self, text: str) -> None:
        """Show something that a person should know, and that is no fault."""
        self._lines("!", text, width=1, style="yellow")

    def _lines(self, label: str, text: str, *, width: int, style: str) -> None:
        room = min(self.console.width, _WIDTH_MAX) - width - 3
        whole = _FIGURE.sub(_HOLD, text)
        for line in textwrap.wrap(whole, max(room, _ROOM_MIN), break_long_words=False):
            shown = escape(line.replace(_HOLD, " "))
            self.console.print(f"  [{style}]{label:<{width}}[/{style}] {shown}", soft_wrap=True)
            label = ""

    def table(
        self, columns: Sequence[str], rows: Sequence[Sequence[str]], *, texts: int = 1
    ) -> None:
        """Show rows; the first ``texts`` columns hold words and are on the left, all others figures on the right."""
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
        table.add_column(width=0)
        for index, column in enumerate(columns):
            table.add_column(column, justify="left" if index < texts else "right")
        for row in rows:
            table.add_row("", *(escape(_UNBROKEN_FIGURE.sub(_NO_BREAK, cell)) for cell in row))
        with self.console.capture() as drawn:
            self.console.print(table)
        for line in drawn.get().replace(_NO_BREAK, " ").splitlines():
            self.console.file.write(line.rstrip() + "\n")

    @contextlib.contextmanager
    def bars(self, **totals: int) -> Iterator[dict[str, Advance]]:
        """Show a bar for each name and total while the block runs; nothing when nobody watches."""
        progress = Progress(
            TextColumn("  {task.description:<10}"),
            BarColumn(bar_width=40),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        with progress:
            yield {
                name: _advance(progress, name.replace("_", " "), total)
                for name, total in totals.items()
            }


def _advance(progress: Progress, name: str, total: int) -> Advance:
    task = progress.add_task(name, total=total)
    return lambda done: progress.update(task, completed=done)


def require(condition: bool, what: str) -> None:
    """End the demo loudly, with exit code 1, unless what it promises is true."""
    if not condition:
        raise click.ClickException(f"the demo found what must never be: {what}")


def seconds(duration_s: float) -> str:
    """Return a duration for people."""
    return f"{duration_s:.2f} s"


def per_second(count: float, duration_s: float) -> str:
    """Return a rate for people, three digits that mean something."""
    rate = count / duration_s if duration_s else 0.0
    if rate >= 1e6:
        return f"{rate / 1e6:.2f} M"
    return f"{rate / 1e3:.0f} k" if rate >= 1e4 else f"{rate:,.0f}"
