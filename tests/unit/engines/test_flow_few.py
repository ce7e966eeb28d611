"""Steps over few rows: what is computed without a plan, and what is left to Polars."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl
import pyarrow as pa
import pytest
from polars.testing import assert_frame_equal

import millstream as ms
from millstream.engines.local.flow_few import FEW_ROWS_MAX, FewSteps
from millstream.flows.steps import Filter, Limit, MapBatches, Select, Step, WithColumns
from millstream.primitives.errors import StepError
from tests.flows_kit import runner_of

SCHEMA = pa.schema([("i", pa.int64()), ("f", pa.float64()), ("t", pa.string())])
ROWS = pl.DataFrame(
    {"i": [1, None, 3], "f": [0.5, float("nan"), None], "t": ["Ab", None, "c"]},
    schema_overrides={"i": pl.Int64},
)
INTEGER_MAX = 2**63 - 1


def few_of(*steps: Step, carried: tuple[str, ...] = ()) -> FewSteps:
    few, schema = FewSteps(carried), SCHEMA
    for step in steps:
        few.add(step, schema)
        schema = step.output(schema, where="here")
    return few


def applied(few: FewSteps, rows: pl.DataFrame = ROWS) -> pl.DataFrame | None:
    found = few.applied(rows)
    return None if found is None else found[0]


def column_of(expression: ms.Expression) -> list[object]:
    result = applied(few_of(Select((("x", expression),))))
    assert result is not None, f"{expression.text()} is left to Polars"
    return result["x"].to_list()


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (ms.col("i") + 1, [2, None, 4]),
        (ms.col("i") // 2, [0, None, 1]),
        (ms.col("i") % 2, [1, None, 1]),
        (-ms.col("i"), [-1, None, -3]),
        (abs(ms.col("i") - 2), [1, None, 1]),
        (ms.col("i") / 0, [None, None, None]),
        (ms.col("f") * 2, [1.0, pytest.approx(float("nan"), nan_ok=True), None]),
        (ms.col("f").is_null(), [False, False, True]),
        ((ms.col("i") > 1) | (ms.col("f") < 1), [True, None, True]),
        (ms.col("i").fill_null(9), [1, 9, 3]),
        (ms.col("i").cast(str), ["1", None, "3"]),
        (ms.col("t").str.lower(), ["ab", None, "c"]),
        (ms.when(ms.col("i") > 1).then(ms.col("i")).otherwise(0), [0, 0, 3]),
    ],
    ids=lambda value: value.text() if isinstance(value, ms.Expression) else "",
)
def test_an_expression_is_computed_without_a_plan(
    expression: ms.Expression, expected: list[object]
):
    assert column_of(expression) == expected


def test_a_literal_has_a_value_for_each_row():
    result = few_of(WithColumns((("x", ms.lit("a")),)), Select((("x", ms.col("x")),)))
    assert applied(result) is not None
    assert applied(result).to_dict(as_series=False) == {"x": ["a", "a", "a"]}


def test_columns_of_one_step_see_what_was_before_it():
    swapped = applied(few_of(WithColumns((("i", ms.col("f")), ("f", ms.col("i"))))))
    assert swapped is not None
    assert swapped.columns == ["i", "f", "t"]
    assert swapped["f"].to_list() == [1, None, 3]


def test_carried_columns_go_on():
    marked = ROWS.with_columns(mark=pl.Series([7, 8, 9]))
    few = few_of(Filter(ms.col("i") > 1), Select((("x", ms.col("i")),)), carried=("mark",))
    result = applied(few, marked)
    assert result is not None
    assert result.to_dict(as_series=False) == {"x": [3], "mark": [9]}


def test_a_filter_may_leave_nothing():
    result = applied(few_of(Filter(ms.col("i") > 9), Select((("x", ms.lit(1)),))))
    assert result is not None
    assert (result.height, result.schema) == (0, pl.Schema({"x": pl.Int64()}))


def test_a_step_of_another_kind_leaves_all_to_polars():
    assert few_of(Filter(ms.col("i") > 1), Limit(1), Filter(ms.col("i") > 1)).applied(ROWS) is None


@pytest.mark.parametrize(("rows", "is_few"), [(FEW_ROWS_MAX, True), (FEW_ROWS_MAX + 1, False)])
def test_many_rows_are_left_to_polars(rows: int, is_few: bool):
    frame = pl.DataFrame({"i": range(rows)})
    assert (few_of(Filter(ms.col("i") >= 0)).applied(frame) is not None) is is_few


def test_what_does_not_fit_says_so_as_with_many_rows():
    steps = [WithColumns((("x", ms.col("i") + 1),))]
    frame = pl.DataFrame({"i": [1, INTEGER_MAX]})
    assert few_of(*steps).applied(frame) is None
    runner = runner_of(steps, SCHEMA)
    with pytest.raises(StepError, match="64 bits"):
        runner.applied(frame)


def test_a_constant_that_cannot_be_computed_fails_whatever_the_rows():
    steps = [Filter(ms.col("i") > 9), Select((("x", ms.lit("Ab").cast(float)),))]
    assert few_of(*steps).applied(ROWS) is None


def test_what_a_branch_hides_cannot_fail():
    hidden = ms.when(ms.col("i") < INTEGER_MAX).then(ms.col("i") + 1).otherwise(0)
    steps = [Select((("x", hidden),))]
    runner = runner_of(steps, SCHEMA)
    frame = pl.DataFrame({"i": [1, INTEGER_MAX]})
    assert runner.applied(frame)["x"].to_list() == [2, 0]


def test_it_says_how_many_rows_each_step_gave():
    steps = [Filter(ms.col("i") > 0), WithColumns((("x", ms.col("i")),)), Filter(ms.col("i") > 1)]
    found = few_of(*steps).applied(ROWS)
    assert found is not None
    assert found[1] == [2, 2, 1]


class Doubler:
    """Yields each of its batches twice, and remembers how often it was called."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        self.calls += 1
        for batch in batches:
            yield batch
            yield batch


@pytest.mark.parametrize("kept", [3, 1, 0])
def test_functions_between_steps_give_what_one_query_gives(kept: int):
    steps = [
        Filter(ms.col("i") > INTEGER_MAX - kept),
        MapBatches(Doubler(), SCHEMA),
        WithColumns((("x", ms.col("i") - 1),)),
        MapBatches(Doubler(), SCHEMA.append(pa.field("x", pa.int64()))),
        Limit(12),
    ]
    frame = ROWS.with_columns(i=pl.Series([INTEGER_MAX, INTEGER_MAX - 1, INTEGER_MAX - 2]))
    runner = runner_of(steps, SCHEMA)
    result = runner.applied(frame)
    assert result.height == 4 * kept
    # The order is that of the batches, which one query may cut elsewhere.
    planned = runner.apply(frame.lazy()).collect()
    assert_frame_equal(result.sort("i"), planned.sort("i"), check_exact=True)


def test_a_function_is_called_once_though_a_step_behind_it_fails():
    doubler = Doubler()
    runner = runner_of(
        [MapBatches(doubler, SCHEMA), WithColumns((("x", ms.col("i") + 1),))], SCHEMA
    )
    with pytest.raises(StepError, match="64 bits"):
        runner.applied(ROWS.with_columns(i=pl.Series([1, 2, INTEGER_MAX])))
    assert doubler.calls == 1


def test_the_error_of_a_function_names_its_step():
    def failing(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield next(batches)
        raise LookupError("nothing")

    runner = runner_of([Filter(ms.col("i") > 0), MapBatches(failing, SCHEMA)], SCHEMA)
    with pytest.raises(StepError, match="raised LookupError: nothing") as caught:
        runner.applied(ROWS)
    assert caught.value.where == "step 2, map_batches"
