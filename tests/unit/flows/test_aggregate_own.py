"""An aggregate of a user's own."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa
import pytest

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
