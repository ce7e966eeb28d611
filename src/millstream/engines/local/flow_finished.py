"""That a flow has come to its end: others may wait for it."""

from __future__ import annotations

from typing import Final

from millstream.store import Transaction

FINISHED: Final = "flow finished"
"""The channel that is woken."""


def note_finished(tx: Transaction, flow: str) -> None:
    """Count one more end of a flow; a batch does so in the transaction that shows what it gives."""
    tx.run("flows/finished_add", (flow, tx.now_us))
    tx.wake(FINISHED)
