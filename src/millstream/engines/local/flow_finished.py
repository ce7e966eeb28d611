"""That a flow has come to its end: others may wait for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from millstream.store import Transaction

FINISHED: Final = "flow finished"
"""The channel that is woken."""

AtEnd: TypeAlias = Callable[[Transaction], None]
"""What is done in the transaction that counts an end; it may be undone, and done again."""


def note_finished(tx: Transaction, flow: str, at_end: AtEnd | None = None) -> None:
    """Count one more end of a flow; a batch does so in the transaction that shows what it gives."""
    tx.run("flows/finished_add", (flow, tx.now_us))
    tx.wake(FINISHED)
    if at_end is not None:
        at_end(tx)
