"""Which groups of open windows have changed since their rows were last given early.

It is kept in memory alone. What a commit has not stored, the next run takes again; and of ``ms.early(…)`` all windows
that are open count as changed after a restart, so that no change stays unseen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import polars as pl

from millstream.flows.emission import Emission

_NOTED_MIN: Final = 20_000
"""Below so many notes it is not worth while to look which are there twice."""


class Revisions:
    """Notes of changed groups. Belongs to one stream in one thread."""

    def __init__(
        self,
        emission: Emission,
        columns: Sequence[str],
        now_us: Callable[[], int],
        *,
        has_open: bool,
    ) -> None:
        """``columns`` are those of state that say which group; ``has_open`` says whether an earlier run left some."""
        assert emission.every_us is not None
        self._every_us = emission.every_us
        self._columns = list(columns)
        self._now_us = now_us
        self._noted: list[pl.DataFrame] = []
        self._groups = 0
        self._is_all = has_open and self._every_us > 0
        self.due_us: int | None = now_us() + self._every_us if self._is_all else None
        """When the rows of the changed groups are due by the clock; None if no group has changed."""

    @property
    def is_clocked(self) -> bool:
        """Whether rows wait for the clock; if not they are given with the micro-batch that changed them."""
        return self._every_us > 0

    def note(self, touched: pl.DataFrame) -> None:
        """Note the groups that rows of state are of."""
        if not touched.height:
            return
        self._noted.append(touched.select(self._columns))
        noted = sum(frame.height for frame in self._noted)
        if noted > max(_NOTED_MIN, 2 * self._groups):
            self._noted = [pl.concat(self._noted).unique()]
            self._groups = self._noted[0].height
        if self.due_us is None:
            self.due_us = self._now_us() + self._every_us

    def take(self) -> pl.DataFrame | None:
        """Return the groups that have changed, None for all; from now on none has."""
        changed = None if self._is_all else pl.concat(self._noted).unique()
        self.clear()
        return changed

    def clear(self) -> None:
        """Forget what has changed."""
        self._noted, self._groups, self._is_all, self.due_us = [], 0, False, None
