"""Flows are immutable, know their columns, and refuse what does not fit when it is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

import millstream as ms
from millstream.flows import aggregate as agg
from millstream.flows.expression import col
from millstream.flows.flow import Flow
from millstream.flows.windows import tumbling
from millstream.primitives.errors import MillstreamError, PlanError
from millstream.primitives.schema import TIMESTAMP
from tests.refusals import refused
from tests.unit.flows.plans import clicks

NAMES = pa.table({"user": ["ann"], "name": ["Ann"]})


def test_a_flow_is_the_start_of_several():
    start = clicks().filter(col("price") > 0)
    assert start.select("user").schema.names == ["user"]
    assert start.select("n").schema.names == ["n"]
    assert len(start.plan.steps) == 1


def test_every_step_knows_its_columns():
    flow = (
        clicks()
        .with_columns(price=col("price").cast(int), twice=col("price") * 2)
        .join(NAMES, on="user")
        .window(tumbling("1h"), on="at", late="5m")
        .group_by("name", hour=col("at").dt.hour())
        .agg(hits=agg.count(), revenue=agg.sum("price"), last=agg.last("twice", by="at"))
    )
    assert flow.schema == pa.schema(
        [
            ("window_start", TIMESTAMP),
            ("window_end", TIMESTAMP),
            ("name", pa.string()),
            ("hour", pa.int64()),
            ("hits", pa.int64()),
            ("revenue", pa.int64()),
            ("last", pa.float64()),
        ]
    )


REFUSED: dict[str, tuple[Callable[[Flow], object], str, str]] = {
    "a column that is missing": (lambda f: f.filter(col("prize") > 0), "no column 'prize'", "step 1, filter"),
    "a condition that is none": (lambda f: f.filter(col("n")), "is int64", "step 1, filter"),
    "a type that does not fit": (lambda f: f.with_columns(x=col("user") + 1), "does not fit", "step 1, with_columns"),
    "the step is counted": (lambda f: f.select("n").filter(col("user") == "a"), "no column 'user'", "step 2, filter"),
    "a column of nothing but null": (lambda f: f.with_columns(x=None), "nothing but null", "step 1"),
    "a reserved name": (lambda f: f.with_columns(__ms_x=1), "cannot be the name", "step 1"),
    "a name that is a pattern": (lambda f: f.with_columns(**{"^n$": 1}), "cannot be the name", "step 1"),
    "a name for all columns": (lambda f: f.select(**{"*": col("n")}), "cannot be the name", "step 1"),
    "a pattern in a table": (lambda f: f.join([{"^u.*$": 1}], on="n", right_on="^u.*$"), "cannot be", "step 1, join"),
    "a pattern that is given": (lambda f: f.map(dict, {"^n$": int}), "cannot be the name", "step 1, map"),
    "a column twice": (lambda f: f.select("n", n=col("n")), "selected twice", "step 1, select"),
    "an empty select": (lambda f: f.select(), "nothing is selected", "step 1"),
    "an expression without a name": (lambda f: f.select(col("n") + 1), "has no name", ""),
    "a window without a time": (lambda f: f.window(tumbling("1h"), on="n"), "cannot say when", "step 1, window"),
    "a window on no column": (lambda f: f.window(tumbling("1h"), on="when"), "no column 'when'", "step 1, window"),
    "a window that is none": (lambda f: f.window("1h", on="at"), "says nothing", "step 1, window"),
    "a negative lateness": (lambda f: f.window(tumbling("1h"), on="at", late="-1s"), "not a duration", ""),
    "a window over a window": (
        lambda f: f.with_columns(window_start=col("at")).window(tumbling("1h"), on="at"),
        "there already", "step 2, window",
    ),
    "a mean of text": (lambda f: f.agg(m=agg.mean("user")), "does not fit string", "step 1, agg"),
    "a sum of times": (lambda f: f.agg(m=agg.sum("at")), "does not fit timestamp", "step 1, agg"),
    "no aggregate": (lambda f: f.group_by("user").agg(), "nothing is aggregated", "step 1, agg"),
    "what is no aggregate": (lambda f: f.agg(m=col("n")), "is not an aggregate", "step 1, agg"),
    "a name of key and aggregate": (lambda f: f.group_by("user").agg(user=agg.count()), "used twice", "step 1, agg"),
    "a join on a missing column": (lambda f: f.join(NAMES, on="n"), "no column 'n'", "step 1, join, the table"),
    "a join of two types": (
        lambda f: f.join(NAMES, on="n", right_on="user"), "of the table is string", "step 1, join",
    ),
    "a join on nothing": (lambda f: f.join(NAMES, on=[]), "0 keys here", "step 1, join"),
    "another kind of join": (lambda f: f.join(NAMES, on="user", how="outer"), "no 'outer' join", "step 1, join"),
    "a join with a name twice": (
        lambda f: f.join(pa.table({"user": ["a"], "n": [1]}), on="user"), "both sides", "step 1, join",
    ),
    "a table that is none": (lambda f: f.join(5, on="user"), "cannot be used as a table", ""),
    "a function that is none": (lambda f: f.map_batches(5, {"n": int}), "cannot be called", "step 1, map_batches"),
    "no name of a column": (lambda f: f.sort(col("n")), "col('n') is no name", "step 1, sort"),
    "orders of too few columns": (
        lambda f: f.sort("n", "user", descending=[True]), "for 2 columns", "step 1, sort",
    ),
    "some concurrency": (
        lambda f: f.async_map(lambda e: e, {"n": int}, concurrency="4"), "concurrency='4'", "step 1, async_map",
    ),
    "a second end": (lambda f: f.write("one").write("two"), "ends in topic 'one' already", "step 1, write"),
    "a second end behind a file": (
        lambda f: f.write("one.csv").write("two"), "ends in csv file 'one.csv' already", "step 1, write",
    ),
    "a step after write": (lambda f: f.write("out").filter(col("n") > 1), "comes after write", "step 1, filter"),
    "a key that is missing": (lambda f: f.write("out", key="k"), "not a column of the output", "step 1, write"),
    "a file with a key": (lambda f: f.write("out.parquet", key="n"), "no key", "step 1, write"),
    "an end that is none": (lambda f: f.write("out").stream(until="tomorrow"), "says nothing", ""),
    "a batch of a text": (lambda f: f.write("out").stream(batch_events="5"), "'5' events", ""),
    "an empty batch": (lambda f: f.write("out").stream(batch_events=0), "0 events", ""),
    "an empty name": (lambda f: f.named(""), "empty", ""),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused_when_it_is_said(case: str):
    build, words, where = REFUSED[case]
    with pytest.raises(MillstreamError) as refused:
        build(clicks())
    assert words in refused.value.what
    assert where in refused.value.where
    assert refused.value.expected or refused.value.next_step


def test_names():
    flow = clicks()
    assert flow.name == "unnamed"
    assert flow.write("revenue").name == "revenue"
    assert flow.write("some/where.parquet").name == "where"
    assert flow.write("revenue").named("mine").name == "mine"


def test_a_table_may_come_in_many_forms():
    rows = [{"user": "ann", "name": "Ann"}]
    for table in (rows, NAMES, NAMES.to_batches()[0]):
        assert clicks().join(table, on="user").schema.names[-1] == "name"


def test_steps_refuse_whatever_the_engine():
    with pytest.raises(PlanError):
        clicks().group_by("missing").agg(n=agg.count())


@pytest.mark.parametrize("name", ["^n$", "^.*$", "*", "__ms_n"])
def test_a_source_with_a_column_that_names_others_is_refused(tmp_path: Path, name: str):
    """Polars takes such a name for all columns that fit it: sums would be of another column."""
    with ms.App("names", store=tmp_path / "names.mill", durability="process") as app:
        table = pa.table({name: [1, 2], "n": [10, 20]})
        with refused(PlanError, f"{name!r} cannot be the name of a column", "where: read"):
            app.read(table)
        topic = app.topic("events", schema={name: int, "n": int})
        with refused(PlanError, f"{name!r} cannot be the name of a column", "where: read"):
            app.read(topic)


@pytest.mark.parametrize("name", ["a b", "a.b", "n*", "^n", "n$", '"', "select", "é\n"])
def test_other_names_are_names(tmp_path: Path, name: str):
    with ms.App("names", store=tmp_path / "names.mill", durability="process") as app:
        flow = app.read(pa.table({name: [1, 2], "n": [10, 20]}))
        assert flow.agg(x=agg.sum(name)).collect().to_pylist() == [{"x": 3}]
