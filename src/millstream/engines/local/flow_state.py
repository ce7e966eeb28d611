"""The open windows of a stream: partial aggregates in memory, and their changelog in the catalog.

In memory there is one merged frame and the partials that came since; they are merged when they
have grown as large as it, so the work per event does not depend on how many windows are open. In
the catalog each micro-batch appends its partials; a merge replaces them by a snapshot. Loading
merges whatever is there. Each stored frame carries its CRC32C.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass

import crc32c
import polars as pl

from millstream.engines.local.flow_aggregate import GroupKernel
from millstream.flows.windows import WINDOW_START
from millstream.primitives.errors import StoreCorrupt

PARTIALS_MAX = 256
"""After so many micro-batches the state is merged and a snapshot is taken, whatever their size."""

GROUPS_MIN = 20_000
"""Below so many groups a merge is not worth its while."""

BLOB_GROUPS_MAX = 250_000
"""A stored frame holds at most so many groups, so that no row of the catalog grows without bound."""


@dataclass(frozen=True)
class StateChange:
    """What a commit does to the changelog: append the blobs, and first drop what was there."""

    replaces: bool
    blobs: tuple[tuple[int, int, bytes], ...]
    """(groups, checksum, data)"""


class WindowState:
    """The windows that are open. Belongs to one stream in one thread."""

    def __init__(self, kernel: GroupKernel) -> None:
        """Start with no window open."""
        assert kernel.window is not None
        self._kernel = kernel
        self._size_us = kernel.window.windows.size_us
        self._frames: list[pl.DataFrame] = []
        self._merged_groups = 0
        self._stored = 0
        self._first_end_us: int | None = None

    def load(self, blobs: Iterable[tuple[int, int, bytes]], *, after_us: int, where: str) -> None:
        """Take over what earlier commits stored, without windows that end at or before ``after_us``."""
        frames = [_decoded(data, checksum, where) for _, checksum, data in blobs]
        self._stored = len(frames)
        if frames:
            everything = pl.concat(frames)
            self._frames = [everything.filter(self._ends() > after_us)]
            self._merge()
            self._find_first_end()

    @property
    def groups(self) -> int:
        """How many groups are held, some of them in several parts."""
        return sum(frame.height for frame in self._frames)

    @property
    def last_end_us(self) -> int | None:
        """When the last open window ends, or None if none is open."""
        if not self.groups:
            return None
        starts = (frame[WINDOW_START].cast(pl.Int64).max() for frame in self._frames)
        return max(s for s in starts if isinstance(s, int)) + self._size_us

    def advance(
        self, partial: pl.DataFrame | None, until_us: int
    ) -> tuple[pl.DataFrame | None, StateChange]:
        """Add the state of a micro-batch, close windows that end at or before ``until_us``.

        Returns the merged states of the closed windows (None if there are none) and the change to store.
        """
        if partial is not None and partial.height:
            self._frames.append(partial)
            self._find_first_end(partial)
        closed = self._close(until_us)
        if self.groups == 0:
            change = StateChange(replaces=self._stored > 0, blobs=())
        elif self._is_due():
            self._merge()
            change = StateChange(replaces=True, blobs=_encoded(self._frames[0]))
        else:
            kept = None if partial is None else partial.filter(self._ends() > until_us)
            blobs = () if kept is None or not kept.height else _encoded(kept)
            change = StateChange(replaces=False, blobs=blobs)
        self._stored = len(change.blobs) + (0 if change.replaces else self._stored)
        return closed, change

    def _ends(self) -> pl.Expr:
        return pl.col(WINDOW_START).cast(pl.Int64) + self._size_us

    def _find_first_end(self, added: pl.DataFrame | None = None) -> None:
        frames = self._frames if added is None else [added]
        starts = [frame[WINDOW_START].cast(pl.Int64).min() for frame in frames if frame.height]
        ends = [start + self._size_us for start in starts if isinstance(start, int)]
        if added is not None and self._first_end_us is not None:
            ends.append(self._first_end_us)
        self._first_end_us = min(ends, default=None)

    def _close(self, until_us: int) -> pl.DataFrame | None:
        if self._first_end_us is None or self._first_end_us > until_us:
            return None
        everything = pl.concat(self._frames)
        is_closed = self._ends() <= until_us
        closed = self._kernel.merge(everything.lazy().filter(is_closed)).collect()
        rest = everything.filter(~is_closed)
        self._frames = [rest] if rest.height else []
        self._merged_groups = min(self._merged_groups, rest.height)
        self._find_first_end()
        return closed

    def _is_due(self) -> bool:
        limit = max(GROUPS_MIN, 2 * self._merged_groups)
        return self._stored >= PARTIALS_MAX or self.groups > limit

    def _merge(self) -> None:
        merged = self._kernel.merge(pl.concat(self._frames).lazy()).collect()
        self._frames = [merged]
        self._merged_groups = merged.height


def _encoded(frame: pl.DataFrame) -> tuple[tuple[int, int, bytes], ...]:
    blobs = []
    for part in frame.iter_slices(BLOB_GROUPS_MAX):
        sink = io.BytesIO()
        part.write_ipc_stream(sink, compression="lz4", compat_level=pl.CompatLevel.oldest())
        data = sink.getvalue()
        blobs.append((part.height, crc32c.crc32c(data), data))
    return tuple(blobs)


def _decoded(data: bytes, checksum: int, where: str) -> pl.DataFrame:
    if crc32c.crc32c(data) != checksum:
        raise StoreCorrupt(
            "the state of a flow is damaged",
            where=where,
            expected=f"CRC32C {checksum:#010x}",
            next_step="run `millstream check` on the store, and restore a copy",
        )
    return pl.read_ipc_stream(io.BytesIO(data))
