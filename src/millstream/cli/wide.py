"""Tables with many columns: as wide as the terminal, and as wide as they are where there is none."""

from __future__ import annotations

import os
from typing import Final

from rich.console import Console

_WIDE: Final = 400
"""Columns of a file or a pipe, which break no lines; a table takes what it needs of them."""


def wide_console() -> Console:
    """Return a console; a pipe is not taken for a terminal of 80 columns, unless COLUMNS says so."""
    console = Console()
    if console.is_terminal or "COLUMNS" in os.environ:
        return console
    return Console(width=_WIDE)
