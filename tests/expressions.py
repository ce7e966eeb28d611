"""Random rows and expressions over them, for tests of what expressions mean."""

from __future__ import annotations

import math

import pyarrow as pa
from hypothesis import strategies as st

from millstream.flows.expression import (
    Binary,
    Call,
    Column,
    Conditional,
    Expression,
    FillNull,
    Literal,
)

ARITHMETIC = ("add", "sub", "mul", "div", "floordiv", "mod")
COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
SCHEMA = pa.schema(
    [
        ("i", pa.int64()),
        ("j", pa.int64()),
        ("f", pa.float64()),
        ("g", pa.float64()),
        ("b", pa.bool_()),
    ]
)
INTEGERS = st.none() | st.integers(-9, 9) | st.sampled_from([2**63 - 1, -(2**63), 2**62, 2**31])
FLOATS = st.none() | st.sampled_from([0.0, -0.0, 0.5, -2.5, 7.0, 0.1, 1e300, math.inf, math.nan])
ROWS = st.lists(
    st.fixed_dictionaries(
        {"i": INTEGERS, "j": INTEGERS, "f": FLOATS, "g": FLOATS, "b": st.none() | st.booleans()}
    ),
    max_size=5,
)


def numbers(children: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
    return st.builds(Binary, st.sampled_from(ARITHMETIC), children, children) | st.builds(
        Call, st.sampled_from(["neg", "abs"]), children
    )


INTEGER = st.recursive(
    st.sampled_from([Column("i"), Column("j"), Literal(3), Literal(-1), Literal(0)]),
    lambda c: (
        st.builds(Binary, st.sampled_from(["add", "sub", "mul", "floordiv", "mod"]), c, c)
        | st.builds(Call, st.sampled_from(["neg", "abs"]), c)
        | st.builds(FillNull, c, c)
    ),
    max_leaves=5,
)
FLOAT = st.recursive(
    st.sampled_from([Column("f"), Column("g"), Literal(2.5), Literal(0.0)]),
    lambda c: numbers(c) | st.builds(FillNull, c, c),
    max_leaves=5,
)
BOOLEAN = st.recursive(
    st.sampled_from([Column("b"), Literal(True)])
    | st.builds(Binary, st.sampled_from(COMPARISONS), INTEGER, INTEGER)
    | st.builds(Binary, st.sampled_from(COMPARISONS), FLOAT, FLOAT | INTEGER)
    | st.builds(Call, st.sampled_from(["is_null", "is_not_null"]), INTEGER | FLOAT),
    lambda c: (
        st.builds(Binary, st.sampled_from(["and", "or"]), c, c) | st.builds(Call, st.just("not"), c)
    ),
    max_leaves=4,
)


def conditional(values: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
    branches = st.lists(st.tuples(BOOLEAN, values), min_size=1, max_size=2).map(tuple)
    return st.builds(Conditional, branches, values)


ANY = INTEGER | FLOAT | BOOLEAN | conditional(INTEGER) | conditional(FLOAT)
