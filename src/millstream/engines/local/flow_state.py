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
from typing import Literal

import crc32c
import polars as pl

from millstream.engines.local.flow_aggregate import GroupKernel
from millstream.flows.watermark import TIME_MIN
from millstream.primitives.errors import StoreCorrupt

Blob = tuple[int, int, bytes]
"""Stored state: (groups, checksum, data)."""

PARTIALS_MAX = 256
"""After so many micro-batches the state is merged and a snapshot is taken, whatever their size."""

GROUPS_MIN = 20_000
"""Below so many groups a merge is not worth its while."""

BLOB_GROUPS_MAX = 250_000
"""A stored frame holds at most so many groups, so that no row of the catalog grows without bound."""


@dataclass(frozen=True)
class StateChange:
    """What a commit does to the changelog: append the blobs, and first drop what was there."""

    replaces: bool = False
    blobs: tuple[Blob, ...] = ()

    def then(self, change: StateChange) -> StateChange:
        """Return the change that does this one, then the other."""
        if change.replaces:
            return change
        return StateChange(self.replaces, self.blobs + change.blobs)


class Changelog:
    """How much is stored of one state: blobs that were appended since the last snapshot, it among them."""

    def __init__(self) -> None:
        """Start with nothing stored."""
        self.blobs = 0
        self.rows = 0

    def loaded(self, blobs: Iterable[Blob]) -> None:
        """Note what earlier commits stored."""
        for rows, _, _ in blobs:
            self.blobs += 1
            self.rows += rows

    def append(self, blobs: tuple[Blob, ...]) -> StateChange:
        """Return the change that adds to what is stored."""
        self.loaded(blobs)
        return StateChange(blobs=blobs)

    def replace(self, blobs: tuple[Blob, ...] = ()) -> StateChange:
        """Return the change that puts a snapshot in the place of what is stored; without blobs nothing is kept."""
        change = StateChange(replaces=bool(blobs) or self.blobs > 0, blobs=blobs)
        self.blobs = self.rows = 0
        self.loaded(blobs)
        return change


class WindowState:
    """The windows that are open. Belongs to one stream in one thread."""

    def __init__(self, kernel: GroupKernel, *, closed_until_us: int = TIME_MIN) -> None:
        """Start with no window open, all of them closed up to that watermark."""
        assert kernel.kind is not None, "a stream aggregates windows"
        self._kernel = kernel
        self._kind = kernel.kind
        self._closed_until_us = closed_until_us
        self._frames: list[pl.DataFrame] = []
        self._merged_groups = 0
        self.changelog = Changelog()
        self._first_due_us: int | None = None
        self.touched: pl.DataFrame | None = None
        """The state that the last micro-batch has added."""

    def load(self, blobs: Iterable[Blob], *, where: str) -> None:
        """Take over what earlier commits stored, without what was closed already."""
        stored = list(blobs)
        self.changelog.loaded(stored)
        frames = [decoded(data, checksum, where) for _, checksum, data in stored]
        if frames:
            self._frames = [self._split(pl.concat(frames), self._closed_until_us)[1]]
            self._merge()
            self._find_first_due()

    def take_over(self, states: pl.DataFrame, changelog: Changelog) -> None:
        """Go on with open windows that another kernel had and stored."""
        self._frames = [states] if states.height else []
        self._merged_groups = states.height
        self.changelog = changelog
        self._find_first_due()

    @property
    def groups(self) -> int:
        """How many groups are held, some of them in several parts."""
        return sum(frame.height for frame in self._frames)

    @property
    def first_due_us(self) -> int | None:
        """The least watermark that closes something, or None if nothing is open."""
        return self._first_due_us

    @property
    def last_due_us(self) -> int | None:
        """The watermark that closes all windows that are open, or None if none is."""
        due = self._kind.due()
        last = due.filter(due > self._closed_until_us).max()
        found = [frame.select(last).item() for frame in self._frames]
        return max((value for value in found if value is not None), default=None)

    @property
    def first_start_us(self) -> int | None:
        """Where the first window that is open begins, or None if none is."""
        start = self._kind.bounds()[0].cast(pl.Int64).min()
        firsts = (frame.select(start).item() for frame in self._frames if frame.height)
        return min(firsts, default=None)

    def advance(
        self, partial: pl.DataFrame | None, until_us: int
    ) -> tuple[pl.DataFrame | None, StateChange]:
        """Add the state of a micro-batch, close windows that end at or before ``until_us``.

        Returns the merged states of the closed windows (None if there are none) and the change to store.
        """
        self.touched, first_us = partial, None
        if partial is not None and partial.height:
            self._frames.append(partial)
            first_us = self._kind.first_due_us(partial, self._closed_until_us)
            known = [us for us in (self._first_due_us, first_us) if us is not None]
            self._first_due_us = min(known, default=None)
        closed = self._close(until_us)
        self._closed_until_us = max(self._closed_until_us, until_us)
        if self.groups == 0:
            return closed, self.changelog.replace()
        if self._is_due():
            self._merge()
            return closed, self.changelog.replace(encoded(self._frames[0]))
        kept = partial
        if partial is not None and first_us is not None and first_us <= until_us:
            kept = self._kind.kept(partial, until_us)
        return closed, self.changelog.append(encoded(kept) if kept is not None else ())

    def current(self, touched: pl.DataFrame | None) -> pl.DataFrame:
        """Return the state of open groups, each in one row: those that ``touched`` has parts of, or all."""
        frames = [pl.DataFrame(schema=self._kernel.state_schema()), *self._frames]
        states = pl.concat(frames).lazy()
        if touched is None:
            return self._kernel.merge(states).collect()
        keys, merge = self._kernel.keys, self._kernel.merge
        return self._kind.of_groups(states, touched.lazy(), keys, merge).collect()

    def _find_first_due(self) -> None:
        firsts = [self._kind.first_due_us(f, self._closed_until_us) for f in self._frames]
        self._first_due_us = min((first for first in firsts if first is not None), default=None)

    def _close(self, until_us: int) -> pl.DataFrame | None:
        if self._first_due_us is None or self._first_due_us > until_us:
            return None
        closed, rest = self._split(pl.concat(self._frames), until_us)
        self._frames = [rest] if rest.height else []
        self._merged_groups = min(self._merged_groups, rest.height)
        self._closed_until_us = until_us
        self._find_first_due()
        return closed if closed.height else None

    def _split(self, states: pl.DataFrame, until_us: int) -> tuple[pl.DataFrame, pl.DataFrame]:
        return self._kind.split(
            states, self._kernel.merge, after_us=self._closed_until_us, until_us=until_us
        )

    def _is_due(self) -> bool:
        limit = max(GROUPS_MIN, 2 * self._merged_groups)
        return self.changelog.blobs >= PARTIALS_MAX or self.groups > limit

    def _merge(self) -> None:
        merged = self._kernel.merge(pl.concat(self._frames).lazy()).collect()
        self._frames = [merged]
        self._merged_groups = merged.height


def encoded(
    frame: pl.DataFrame,
    rows_max: int | None = None,
    *,
    compression: Literal["lz4", "uncompressed"] = "lz4",
) -> tuple[Blob, ...]:
    """Return a frame as what is stored of it, in pieces of ``rows_max`` rows; of none there is nothing."""
    blobs = []
    for part in frame.iter_slices(rows_max or BLOB_GROUPS_MAX):
        sink = io.BytesIO()
        part.write_ipc_stream(sink, compression=compression, compat_level=pl.CompatLevel.oldest())
        data = sink.getvalue()
        blobs.append((part.height, crc32c.crc32c(data), data))
    return tuple(blobs)


def decoded(data: bytes, checksum: int, where: str) -> pl.DataFrame:
    """Return a stored frame. Raises StoreCorrupt unless the checksum is that of the data."""
    if crc32c.crc32c(data) != checksum:
        raise StoreCorrupt(
            "the state of a flow is damaged",
            where=where,
            expected=f"CRC32C {checksum:#010x}",
            next_step="run `millstream check` on the store, and restore a copy",
        )
    frame = pl.read_ipc_stream(io.BytesIO(data))
    # Integers may be stored as narrow as they can be.
    narrow = [name for name, kind in frame.schema.items() if kind in (pl.Int8, pl.Int16, pl.Int32)]
    return frame.with_columns(pl.col(narrow).cast(pl.Int64)) if narrow else frame
