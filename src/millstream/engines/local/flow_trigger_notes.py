"""What is noted of triggers in the store's catalog: read, and changed by the last commit of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from millstream.flows.trigger_conditions import Condition, Facts, Note
from millstream.primitives.backoff import Backoff
from millstream.primitives.errors import Fenced
from millstream.primitives.telemetry import reach
from millstream.store import Snapshot, Transaction

BACKOFF: Final = Backoff.exponential("5s", longest="10m", jitter=False)
"""How long a trigger whose run has failed waits."""


@dataclass(frozen=True)
class Stored:
    """The row of a trigger."""

    anchor_us: int
    seen: Mapping[str, Note]
    turn: int
    runs: int = 0
    last_us: int | None = None
    failures: int = 0
    retry_us: int | None = None
    error: str | None = None

    def noted(self, condition: Condition, facts: Facts) -> Note:
        """Return what is noted for a condition; what one that is new begins with."""
        if self.knows(condition, facts):
            return self.seen[condition.key]
        return condition.first(facts)

    def knows(self, condition: Condition, facts: Facts) -> bool:
        """Return whether a note is stored that can be compared with."""
        return condition.key in self.seen and condition.holds(self.seen[condition.key], facts)

    def held_back_us(self, now_us: int) -> int | None:
        """Return until when a run that failed is not tried again; None if nothing holds it back."""
        # Later than any wait is long: the clock was set back since.
        if self.retry_us is None or self.retry_us > now_us + BACKOFF.longest_us:
            return None
        return self.retry_us


@dataclass
class NewNote:
    """What a run had before it, to be stored by its last commit."""

    name: str
    turn: int
    seen: str
    now_us: int
    is_stored: bool = False

    def __call__(self, tx: Transaction) -> None:
        """Store it. Raises Fenced, which undoes the commit, if another process has stored one since."""
        params = {
            "name": self.name,
            "turn": self.turn,
            "seen": self.seen,
            "last_us": self.now_us,
        }
        if not tx.run("flows/trigger_done", params):
            raise Fenced(
                "another process has run it meanwhile",
                where=f"trigger {self.name!r}",
                expected="one process that runs it",
                next_step="nothing: what is due from now on is run as ever",
            )
        reach("trigger.applied")
        self.is_stored = True


def read_trigger(snapshot: Snapshot, name: str) -> Stored | None:
    """Return the row of a trigger; None if it was never looked at."""
    for anchor_us, seen, *rest in snapshot.run("flows/trigger_get", (name,)):
        return Stored(anchor_us, json.loads(seen), *rest)
    return None
