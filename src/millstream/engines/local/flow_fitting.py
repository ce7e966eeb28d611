"""``fit`` in a batch: rows are learned piece by piece while they stream through, so they need not fit in memory.

    source ──► steps ──► fit ──► steps ──► whole ──► sink
                         │                   │
                         learns each piece   behind the last row that the steps want, reads what they left of the fit

All rows are learned once, in their order, whatever the steps behind ask for: a ``limit`` reads the first few, a join
with an empty table none. Only what reads a frame once stands behind it; for all else the rows are held.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import polars as pl
import pyarrow as pa

from millstream.engines.local.flow_lazy import lazy_frames
from millstream.engines.local.flow_learning import Trainer, fitted
from millstream.engines.local.flow_tally import Counter

FIT_ROWS: Final = 50_000
"""So many rows are learned at a time; of river's models each is a dict then."""


class Fitting:
    """One ``fit`` of a batch. Its rows are read once.

    Polars reads ahead in a thread of its own, also when a ``limit`` has all that it wants and nobody waits for that
    thread any more. So each piece is taken under a lock, by it or by ``finish``, and is learned whoever takes it.
    """

    def __init__(
        self, trainer: Trainer, frame: pl.LazyFrame, schema: pa.Schema, counter: Counter
    ) -> None:
        """``schema`` is that of the rows with the predictions; ``counter`` has the time. Nothing is read yet."""
        self._trainer = trainer
        self._frame = frame
        self._schema = schema
        self._counter = counter
        self._rest = self._learned()
        self._is_taken = False
        self._lock = threading.Lock()
        self.error: BaseException | None = None
        """What was raised: Polars raises a copy without its facts, or nothing if nobody waits."""

    def frame(self) -> pl.LazyFrame:
        """Return the rows, which are learned while they are read."""
        return lazy_frames(self._given, self._schema)

    def rows(self) -> pl.DataFrame:
        """Learn all rows, and return them."""
        empty = self._frame.clear().collect()
        return pl.concat([*self._pieces()] or [fitted(self._trainer, empty)])

    def finish(self) -> None:
        """Learn the rows that nothing has asked for. Raises what learning them has raised meanwhile."""
        for _ in self._pieces():
            pass
        if self.error is not None:
            raise self.error

    def _given(self) -> Iterator[pl.DataFrame]:
        assert not self._is_taken, "what stands behind it reads a frame once"
        self._is_taken = True
        return self._pieces()

    def _pieces(self) -> Iterator[pl.DataFrame]:
        """Yield what nobody has taken yet; who stops reading does not end it for others."""
        while True:
            with self._lock:
                rows = next(self._rest, None)
            if rows is None:
                return
            yield rows

    def _learned(self) -> Iterator[pl.DataFrame]:
        try:
            for piece in self._frame.collect_batches(
                engine="streaming", maintain_order=True, chunk_size=FIT_ROWS
            ):
                with self._counter.spending():
                    rows = fitted(self._trainer, piece)
                yield rows
        except BaseException as error:
            self.error = error
            raise


def whole(frame: pl.LazyFrame, fitting: Fitting, schema: pa.Schema) -> pl.LazyFrame:
    """Return a frame behind whose last row all is learned; what reads it reads it to its end."""

    def parts() -> Iterator[pl.DataFrame]:
        yield from frame.collect_batches(engine="streaming", maintain_order=True)
        fitting.finish()

    return lazy_frames(parts, schema)


@contextmanager
def own_error(fitting: Callable[[], Fitting | None]) -> Iterator[None]:
    """Raise what a training raised, as it raised it; ``fitting`` is asked then."""
    try:
        yield
    except Exception:
        found = fitting()
        if found is not None and found.error is not None:
            raise found.error from None
        raise
