"""How much a stream takes at once."""

from __future__ import annotations

from typing import Final

BATCH_EVENTS: Final = 100_000
"""How many events a micro-batch takes at most unless ``stream`` is told otherwise."""
