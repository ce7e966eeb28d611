"""An aggregate of a user's own."""

from __future__ import annotations

import math
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import millstream as ms
from millstream.flows.aggregate import aggregator
from millstream.primitives.errors import PlanError, StepError
from tests.refusals import refused
from tests.unit.flows.kernels import aggregated, floats, integers

geometric = aggregator(
    init=lambda: [0.0, 0],
    add=lambda state, value: [state[0] + math.log(value), state[1] + 1],
    merge=lambda one, other: [one[0] + other[0], one[1] + other[1]],
    finish=lambda state: math.exp(state[0] / state[1]) if state[1] else None,
    returns=float,
    name="geometric",
)


def test_it_is_computed_in_any_parts():
    assert aggregated(geometric("x"), x=floats(1.0, None, 4.0, 2.0)) == pytest.approx(2.0)


def test_of_nothing_it_finishes_what_init_makes():
    assert aggregated(geometric("x"), x=floats(None)) is None


def _raise(text: str) -> None:
    raise ValueError(text)


def test_its_text_is_its_name():
    assert geometric("x").text() == "geometric(col('x'))"


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ({"add": lambda state, value: state / 0}, "ZeroDivisionError"),
        ({"init": object, "add": lambda state, value: state}, "cannot be stored"),
        (
            {"finish": lambda state: "much"},
            "finish gives what is no int64.*where: aggregator",
        ),
        ({"finish": lambda state: 1.5}, "finish gives what is no int64"),
        ({"finish": lambda state: 2**70}, "finish gives what is no int64"),
        ({"finish": lambda state: int("\n")}, r"ValueError: invalid literal.*where: aggregator"),
        ({"finish": lambda state: _raise("two\nlines")}, "ValueError: two; where: aggregator"),
    ],
)
def test_what_it_raises_is_told(broken: dict[str, Any], says: str):
    working: dict[str, Any] = {
        "init": int,
        "add": lambda state, value: state + value,
        "merge": lambda one, other: one + other,
        "finish": lambda state: state,
        "returns": int,
    }
    own = aggregator(**{**working, **broken})
    with pytest.raises(StepError, match=says):
        aggregated(own("x"), x=integers(1, 2))


def test_a_type_that_is_none_is_refused():
    with pytest.raises(PlanError, match="aggregator"):
        aggregator(
            init=int,
            add=lambda state, value: state,
            merge=lambda one, other: one,
            finish=lambda state: state,
            returns="much",
        )


@pytest.mark.parametrize("part", ["init", "add", "merge", "finish"])
def test_what_cannot_be_called_is_refused(part: str):
    working: dict[str, Any] = {"init": int, "add": max, "merge": max, "finish": int}
    with refused(PlanError, f"{part}=5 cannot be called"):
        aggregator(**{**working, part: 5}, returns=int)


@pytest.mark.parametrize("returns", [list[int], list[int] | None, pa.list_(pa.int64())])
def test_it_may_return_whatever_a_schema_can_say(returns: object):
    values = aggregator(
        init=list,
        add=lambda state, value: [*state, value],
        merge=lambda one, other: sorted(one + other),
        finish=lambda state: state,
        returns=returns,
    )
    assert aggregated(values("x"), x=integers(1, None, 2)) == [1, 2]


def test_a_state_of_tuples_and_nan_stays_what_it_is():
    worst = aggregator(
        init=lambda: (0, [math.nan]),
        add=lambda state, value: (state[0] + value, state[1]),
        merge=lambda one, other: (one[0] + other[0], one[1]),
        finish=lambda state: state[0] if math.isnan(state[1][0]) else None,
        returns=int,
    )
    assert aggregated(worst("x"), x=integers(1, None, 2)) == 3


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ({1}, "it is {1} and would come back as [1]"),
        ({"on": [date(2026, 1, 1)]}, "it['on'][0] is datetime.date(2026, 1, 1)"),
        (Decimal(1), "would come back as '1'"),
    ],
)
def test_a_state_that_would_come_back_as_another_is_refused(
    tmp_path: Path, state: object, says: str
):
    """A batch, which merges nothing, would give a result, and a stream would fail or give another."""
    own = aggregator(
        init=lambda: state,
        add=lambda state, value: state,
        merge=lambda one, other: one,
        finish=lambda state: 1,
        returns=int,
        name="odd",
    )
    with (
        ms.App("odd", store=tmp_path / "odd.mill", durability="process") as app,
        refused(StepError, says, "aggregator odd"),
    ):
        app.read([{"x": 1}]).agg(n=own("x")).run()
