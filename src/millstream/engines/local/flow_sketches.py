"""Approximate aggregates: sketches in lists of integers, a list for each group, merged for all groups at once.

    aggregate         state                                  an element
    approx_n_unique   HyperLogLog registers that are not 0   register * 64 + rank                    (32 bits)
    approx_quantile   buckets of DDSketch that are not empty  bucket * 2^42 + how many values it has  (64 bits)

A register keeps the greatest rank that came, a bucket the sum: neither depends on the order, nor on how rows were cut
into batches. Every list is in order and holds a register or bucket once.

Hashes and buckets are part of what the catalog stores: they must not change with a version of a library, which is why
Polars' own hash is not used. Numbers and times are hashed as their bits by the finalizer of SplitMix64 (Steele, Lea and
Flood 2014), texts and bytes by BLAKE2b.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from millstream.engines.local.flow_kernel import Kernel

Integers = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]

_RANK_BITS: Final = 6
_COUNT_BITS: Final = 42
_BUCKET_BITS: Final = 21
_INFINITY: Final = 2 ** (_BUCKET_BITS - 1) - 2
_NAN: Final = _INFINITY + 1
_LOG_LEAST: Final = math.log(5e-324)
_ALPHA: Final = 1 / (2 * math.log(2))


def n_unique_sketch(value: pl.Expr, state: str, error: float) -> Kernel:
    """Return the kernel of a count of distinct values; ``error`` is its relative standard error at most."""
    precision = register_bits(error)
    codes = _each(value, lambda values: _registers(values, precision), pl.UInt32)
    partial = _whole(codes.drop_nulls().unique(), _greatest_ranks, pl.UInt32)
    merge = _whole(pl.col(state).explode().drop_nulls().unique(), _greatest_ranks, pl.UInt32)
    final = _each(pl.col(state), lambda lists: _estimates(lists, precision), pl.Int64)
    return Kernel({state: partial}, {state: merge}, final)


def quantile_sketch(value: pl.Expr, state: str, q: float, error: float) -> Kernel:
    """Return the kernel of a quantile; ``error`` is the greatest relative error of its value."""
    log_base = math.log((1 + error) / (1 - error))
    codes = _each(value.cast(pl.Float64), lambda values: _buckets(values, log_base), pl.Int64)
    partial = _whole(codes.drop_nulls(), _summed, pl.Int64)
    merge = _whole(pl.col(state).explode().drop_nulls(), _summed, pl.Int64)
    final = _each(pl.col(state), lambda lists: _values_at(lists, q, log_base), pl.Float64)
    return Kernel({state: partial}, {state: merge}, final)


def register_bits(error: float) -> int:
    """Return of how many registers, as a power of two, the relative standard error is at most ``error``.

    It is 1.04 / sqrt(registers): Flajolet, Fusy, Gandouet and Meunier, "HyperLogLog" (2007), theorem 1.
    """
    return max(4, math.ceil(2 * math.log2(1.04 / error)))


def _each(
    values: pl.Expr, function: Callable[[pl.Series], pl.Series], kind: type[pl.DataType]
) -> pl.Expr:
    return values.map_batches(function, return_dtype=kind, is_elementwise=True)


def _whole(
    codes: pl.Expr, function: Callable[[pl.Series], pl.Series], kind: type[pl.DataType]
) -> pl.Expr:
    # To Polars it is a function of each list, so it is called once, with the lists of all groups.
    lists = codes.implode()
    return lists.map_batches(function, return_dtype=pl.List(kind), is_elementwise=True)


def _registers(values: pl.Series, precision: int) -> pl.Series:
    """Return for each value its register and the rank that it gives it."""
    hashes = _hashes(values)
    register = hashes >> np.uint64(64 - precision)
    # A one behind the last bit bounds the rank by 65 - precision.
    rest = (hashes << np.uint64(precision)) | np.uint64(1 << (precision - 1))
    codes = (register << np.uint64(_RANK_BITS)) | _leading_zeros(rest) + np.uint64(1)
    found = pl.Series(codes.astype(np.uint32))
    return found if not values.null_count() else found.zip_with(values.is_not_null(), _NO_CODES)


_NO_CODES: Final = pl.Series([None], dtype=pl.UInt32)


def _leading_zeros(bits: Hashes) -> Hashes:
    """Return how many zeros are before the first one; there is one."""
    high = (bits >> np.uint64(32)).astype(np.float64)
    low = (bits & np.uint64(0xFFFFFFFF)).astype(np.float64)
    # Halves are exact as floats; the exponent of a float says where its first one is.
    of_high, of_low = 32 - np.frexp(high)[1], 64 - np.frexp(low)[1]
    return np.where(high > 0, of_high, of_low).astype(np.uint64)


def _hashes(values: pl.Series) -> Hashes:
    if values.dtype in (pl.String, pl.Binary):
        return _digests(values.cast(pl.Binary).fill_null(b"").to_list())
    if values.dtype == pl.Float64:
        # One zero, and one NaN.
        numbers = values.fill_null(0.0).fill_nan(None).to_numpy() + 0.0
        bits = np.where(np.isnan(numbers), np.nan, numbers).view(np.uint64)
    else:
        physical = values.to_physical().cast(pl.Int64).fill_null(0)
        bits = physical.to_numpy().view(np.uint64)
    return _mixed(bits)


def _digests(values: Iterable[bytes]) -> Hashes:
    joined = b"".join(hashlib.blake2b(value, digest_size=8).digest() for value in values)
    return np.frombuffer(joined, dtype="<u8").astype(np.uint64)


def _mixed(bits: Hashes) -> Hashes:
    z = bits + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Hashes = z ^ (z >> np.uint64(31))
    return mixed


def _greatest_ranks(lists: pl.Series) -> pl.Series:
    """Return each list in order, with the greatest rank of each register alone."""
    groups, codes = _flat(lists)
    placed = np.sort((groups << 32) | codes)
    registers = placed >> _RANK_BITS
    is_greatest = np.append(registers[1:] != registers[:-1], True)[: placed.size]
    kept = placed[is_greatest]
    return _lists(kept >> 32, (kept & 0xFFFFFFFF).astype(np.uint32), len(lists))


def _estimates(lists: pl.Series, precision: int) -> pl.Series:
    """Return how many distinct values led to the registers of each list.

    Ertl, "New cardinality estimation algorithms for HyperLogLog sketches" (2017), algorithm 6.
    """
    groups, codes = _flat(lists)
    registers, rank_max = 2**precision, 65 - precision
    ranks = codes & (2**_RANK_BITS - 1)
    zeros = registers - np.bincount(groups, minlength=len(lists))
    full = np.bincount(groups[ranks == rank_max], minlength=len(lists))
    weights = np.where(ranks < rank_max, np.exp2(-ranks.astype(np.float64)), 0.0)
    total = np.bincount(groups, weights=weights, minlength=len(lists)).astype(np.float64)
    total += registers * _sigma(zeros / registers)
    total += registers * _tau(1 - full / registers) * 2.0 ** (1 - rank_max)
    return pl.Series(np.rint(_ALPHA * registers**2 / total).astype(np.int64))


def _sigma(share: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return what the registers without a value stand for; infinite when all are."""
    is_all = share == 1
    x = np.where(is_all, 0.0, share)
    total, weight, before = x.copy(), 1.0, np.full_like(x, -1.0)
    while not np.array_equal(total, before):
        x, before = x * x, total
        total, weight = total + x * weight, weight * 2
    return np.where(is_all, np.inf, total)


def _tau(share: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return what the registers of the greatest rank stand for; nothing when none or all are."""
    x = np.where(share == 0, 1.0, share)
    total, weight, before = 1 - x, 1.0, np.full_like(x, -1.0)
    while not np.array_equal(total, before):
        x, before, weight = np.sqrt(x), total, weight / 2
        total = total - (1 - x) ** 2 * weight
    return total / 3


def _buckets(values: pl.Series, log_base: float) -> pl.Series:
    """Return for each value its bucket, with a count of one."""
    numbers = values.fill_null(0.0).to_numpy()
    size = np.abs(numbers)
    is_plain = np.isfinite(numbers) & (size > 0)
    place = np.ceil(np.log(np.where(is_plain, size, 1.0)) / log_base) + _first_bucket(log_base)
    place = np.where(is_plain, place, np.where(size > 0, _INFINITY, 0)) * np.sign(numbers)
    bucket = np.where(np.isnan(numbers), _NAN, place).astype(np.int64)
    found = pl.Series((bucket << _COUNT_BITS) + 1)
    return found if not values.null_count() else found.zip_with(values.is_not_null(), _NO_BUCKETS)


_NO_BUCKETS: Final = pl.Series([None], dtype=pl.Int64)


def _first_bucket(log_base: float) -> int:
    """Return what is added to a bucket's exponent, so that the least positive number has a positive one."""
    return 1 - math.floor(_LOG_LEAST / log_base)


def _summed(lists: pl.Series) -> pl.Series:
    """Return each list in order, with each bucket once and all its counts together."""
    groups, codes = _flat(lists)
    placed = (groups << _BUCKET_BITS) + (codes >> _COUNT_BITS) + 2 ** (_BUCKET_BITS - 1)
    order = np.argsort(placed, kind="stable")
    placed = placed[order]
    counts = (codes & (2**_COUNT_BITS - 1))[order]
    begins = np.flatnonzero(np.append(True, placed[1:] != placed[:-1])[: placed.size])
    sums = np.add.reduceat(counts, begins) if begins.size else counts
    placed = placed[begins]
    bucket = (placed & (2**_BUCKET_BITS - 1)) - 2 ** (_BUCKET_BITS - 1)
    return _lists(placed >> _BUCKET_BITS, (bucket << _COUNT_BITS) + sums, len(lists))


def _values_at(lists: pl.Series, q: float, log_base: float) -> pl.Series:
    """Return the value of the bucket in which the quantile of each list is; null of nothing."""
    groups, codes = _flat(lists)
    if not codes.size:
        return pl.Series([None] * len(lists), dtype=pl.Float64)
    reached = np.cumsum(codes & (2**_COUNT_BITS - 1))
    ends = np.searchsorted(groups, np.arange(len(lists)), side="right")
    until = np.where(ends > 0, reached[ends - 1], 0)
    before = np.append(0, until[:-1])
    rank = np.floor(q * (until - before - 1))
    at = np.searchsorted(reached, before + rank, side="right")
    found = pl.Series(_value_of(codes[np.minimum(at, codes.size - 1)] >> _COUNT_BITS, log_base))
    return found.zip_with(pl.Series(until > before), pl.Series([None], dtype=pl.Float64))


def _value_of(bucket: Integers, log_base: float) -> npt.NDArray[np.float64]:
    """Return the value that is as far from both ends of a bucket, measured by the ends."""
    size = np.abs(bucket)
    exponent = (size - _first_bucket(log_base)) * log_base
    # 2 * base^i / (base + 1), where base^i alone may be too large for a float.
    middle = np.exp(np.minimum(exponent + math.log(2 / (math.exp(log_base) + 1)), _LOG_MOST))
    value = np.where(size == _INFINITY, np.inf, np.where(size == 0, 0.0, middle))
    return np.where(bucket == _NAN, np.nan, value * np.sign(bucket))


_LOG_MOST: Final = 709.782712893384
"""Rounded down, so that it is that of a float: the greatest is 1.8e308."""


def _flat(lists: pl.Series) -> tuple[Integers, Integers]:
    """Return for each element the number of its list, and the element."""
    lengths = lists.list.len().to_numpy()
    groups = np.repeat(np.arange(len(lists), dtype=np.int64), lengths)
    return groups, lists.explode().drop_nulls().cast(pl.Int64).to_numpy()


def _lists(groups: Integers, elements: npt.NDArray[np.generic], count: int) -> pl.Series:
    """Return lists of elements that are ordered by the number of their list."""
    offsets = np.searchsorted(groups, np.arange(count + 1), side="left")
    array = pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), pa.array(elements))
    made = pl.from_arrow(array)
    assert isinstance(made, pl.Series)
    return made
