"""Keys as codes: small integers, by which arrays are looked up."""

from __future__ import annotations

from typing import Final, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from millstream.flows.inference import infer
from millstream.flows.kinds import INTEGER, TEXT
from millstream.flows.plan import Aggregation

Codes: TypeAlias = npt.NDArray[np.int64]

CODES_MAX: Final = 1_000_000
"""So many keys, or so large a range of integers, at most."""


class TooLarge(Exception):
    """Arrays would be too large."""


class Keys(Protocol):
    """The codes of the keys that were seen. 0 is the null key."""

    size: int
    """One more than the greatest code."""

    def codes(self, keys: pl.Series) -> tuple[Codes, int]:
        """Return the codes of keys, and by how much the codes of before have moved. Raises TooLarge."""

    def values(self, codes: Codes) -> pl.Series:
        """Return the keys of codes."""


def keys_of(step: Aggregation, schema: pa.Schema) -> Keys | None:
    """Return what codes the key of an aggregation, or None for a type that has no codes."""
    if not step.keys:
        return NoKeys()
    kind = infer(step.keys[0][1], schema, where=step.name)
    if kind == INTEGER:
        return IntegerKeys()
    return TextKeys() if kind == TEXT else None


class NoKeys:
    """All rows belong together."""

    size = 1

    def codes(self, keys: pl.Series) -> tuple[Codes, int]:
        """Return zeros."""
        return np.zeros(len(keys), dtype=np.int64), 0

    def values(self, codes: Codes) -> pl.Series:
        """Return nulls."""
        return pl.repeat(None, codes.size, eager=True)


class IntegerKeys:
    """Integers of a small range: the code of one is its distance from the least, and one more."""

    def __init__(self) -> None:
        """Start without a range."""
        self.size = 1
        self._range: tuple[int, int] | None = None

    def codes(self, keys: pl.Series) -> tuple[Codes, int]:
        """Return the codes of keys; a key below all others moves those of before."""
        nulls = keys.null_count()
        if nulls == len(keys):
            return np.zeros(len(keys), dtype=np.int64), 0
        least, most = int(keys.min()), int(keys.max())  # type: ignore[arg-type]  # a column of integers
        before = self._range or (least, most)
        first, last = min(least, before[0]), max(most, before[1])
        if last - first + 2 > CODES_MAX:
            raise TooLarge
        shift = before[0] - first
        self._range, self.size = (first, last), last - first + 2
        if not nulls:
            return keys.to_numpy() - (first - 1), shift
        codes = keys.fill_null(first).to_numpy() - (first - 1)
        codes[keys.is_null().to_numpy()] = 0
        return codes, shift

    def values(self, codes: Codes) -> pl.Series:
        """Return the keys of codes."""
        first = 0 if self._range is None else self._range[0]
        keys = pl.Series(codes + (first - 1))
        if codes.size and np.min(codes) == 0:
            keys = keys.set(pl.Series(codes == 0), None)
        return keys


class TextKeys:
    """Texts, numbered in the order in which they were first seen by a dictionary of Polars."""

    def __init__(self) -> None:
        """Start with an empty dictionary of its own."""
        self.size = 1
        self._kind = pl.Categorical(pl.Categories.random())
        # Polars drops a dictionary that no column uses.
        self._dictionary = pl.Series(dtype=self._kind)
        self._known = pl.Series(dtype=pl.String)
        """The texts by their codes, less one."""

    def codes(self, keys: pl.Series) -> tuple[Codes, int]:
        """Return the codes of keys."""
        coded = keys.cast(self._kind)
        self._dictionary = coded.head(1)
        physical = coded.to_physical()
        nulls = coded.null_count()
        if nulls < len(keys):
            most = int(physical.max()) + 2  # type: ignore[arg-type]  # not all are null
            if most > CODES_MAX:
                raise TooLarge
            if most > self.size:
                new = pl.Series(np.arange(self.size - 1, most - 1), dtype=pl.UInt32)
                texts = new.cat.to(self._kind).cast(pl.String)
                # In one piece, from which texts are taken six times as fast.
                self._known = pl.concat([self._known, texts], rechunk=True)
                self.size = most
        codes = physical.fill_null(0) if nulls else physical
        numbers = codes.to_numpy().astype(np.int64) + 1
        if nulls:
            numbers[keys.is_null().to_numpy()] = 0
        return numbers, 0

    def values(self, codes: Codes) -> pl.Series:
        """Return the keys of codes."""
        if not codes.size or np.min(codes) > 0:
            return self._known[pl.Series((codes - 1).astype(np.uint32))]
        at = pl.Series(codes - 1).set(pl.Series(codes == 0), None)
        return self._known.gather(at)
