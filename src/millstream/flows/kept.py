"""What a step of a stream keeps between micro-batches, as people read it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

ROWS_SHOWN = 20
"""So many rows of each state are shown unless more are asked for."""


@dataclass(frozen=True)
class KeptState:
    """One state of a flow, as its last commit left it.

    ``step`` is the number that ``explain()`` shows, 0 for a join. ``rows`` are the first of ``rows_total``: open
    windows with their aggregates as they would be given now; keys with ``key``, ``state``, ``timers`` and, if they have
    a time to live, ``expires``; or rows that wait. ``closed_until`` is the watermark up to which it is closed; of a
    shared flow that of the last partition. ``stored_bytes`` is what it takes in the catalog, with parts that are not
    merged yet.
    """

    step: int
    name: str
    holds: str
    closed_until: datetime | None
    rows_total: int
    stored_bytes: int
    rows: tuple[dict[str, Any], ...]
