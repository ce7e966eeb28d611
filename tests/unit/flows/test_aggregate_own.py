"""An aggregate of a user's own."""

from __future__ import annotations

import math
from typing import Any

import pytest

from millstream.flows.aggregate import aggregator
from millstream.primitives.errors import PlanError, StepError
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


def test_its_text_is_its_name():
    assert geometric("x").text() == "geometric(col('x'))"


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ({"add": lambda state, value: state / 0}, "ZeroDivisionError"),
        ({"init": object, "add": lambda state, value: state}, "cannot be stored"),
        ({"finish": lambda state: "much"}, "aggregator raised"),
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
