"""sum: exact for integers, null of nothing, an error beyond 64 bits."""

from __future__ import annotations

import math
from pathlib import Path

import pyarrow as pa
import pytest

import millstream as ms
from millstream.flows.aggregate import sum as sum_of
from millstream.primitives.errors import StepError
from tests.refusals import refused
from tests.unit.flows.kernels import aggregated, floats, integers


def test_integers_and_nulls():
    assert aggregated(sum_of("x"), x=integers(1, None, -4)) == -3


def test_nothing_is_null():
    assert aggregated(sum_of("x"), x=integers(None, None)) is None
    assert aggregated(sum_of("x"), x=floats()) is None


def test_it_is_exact_where_64_bits_are_left_on_the_way():
    assert aggregated(sum_of("x"), x=integers(2**63 - 1, 5, -(2**63), -7)) == -3


@pytest.mark.parametrize("values", [(2**63 - 1, 1), (-(2**63), -1), (2**62, 2**62)])
def test_beyond_64_bits_is_an_error(values: tuple[int, ...]):
    with pytest.raises(StepError, match="64 bits"):
        aggregated(sum_of("x"), x=integers(*values))


def test_the_error_names_the_sum_that_does_not_fit(tmp_path: Path):
    rows = [{"k": 1, "x": 2**62}, {"k": 1, "x": 2**62}]
    with ms.App("sums", store=tmp_path / "sums.mill", durability="process") as app:
        flow = app.read(rows).group_by("k").agg(n=ms.sum("k"), much=sum_of("x"))
        with refused(StepError, "the sum 'much' does not fit in 64 bits", "step 1, agg") as refusal:
            flow.run()
        assert "__ms" not in str(refusal)


def test_floats_keep_nan():
    assert math.isnan(aggregated(sum_of("x"), x=floats(1.0, math.nan)))
    assert aggregated(sum_of("x"), x=floats(0.5, None, 0.25)) == 0.75


def test_durations():
    assert aggregated(sum_of("x"), x=pa.array([1, 2], pa.duration("us"))).microseconds == 3
