"""What becomes of the times of the queries, and of an answer that is not ours."""

from __future__ import annotations

import pytest

from benchmarks.batch.driver import system_named
from benchmarks.batch.sql import QUERIES
from benchmarks.batch.tpch import ALL, Answers, ratios
from benchmarks.harness import OWN, Figure, Outcome, Unavailable


def figures(times: dict[str, list[float]], reasons: dict[str, str] | None = None) -> list[Figure]:
    rounds = {
        name: [{ALL: time} | dict.fromkeys(QUERIES, time / 10) for time in found]
        for name, found in times.items()
    }
    return ratios(Outcome([*times, *(reasons or {})], rounds, reasons or {}))


def test_we_are_compared_with_each_peer_round_by_round():
    polars, dask, spark = figures(
        {OWN: [1.2, 2.0], "polars": [1.0, 2.0], "dask": [12.0, 10.0], "pyspark": [3.6, 4.0]}
    )
    assert polars.samples.values == (1.2, 1.0)
    assert polars.met is True
    assert dask.samples.values == pytest.approx((10.0, 5.0))
    assert dask.met is True
    assert spark.samples.values == pytest.approx((3.0, 2.0))
    assert spark.met is False
    assert spark.notes[0].startswith("by query: q1 2.50, q3 2.50")


def test_without_a_peer_that_was_asked_for_its_target_is_not_met():
    [figure] = figures({OWN: [1.0]}, {"pyspark": "needs Java"})
    assert figure.met is False
    assert figure.all_notes()[-1] == "millstream: no pyspark was measured"


def test_a_peer_that_was_not_asked_for_has_no_target():
    assert figures({OWN: [1.0]}) == []


@pytest.mark.parametrize(
    "other",
    [[["a", 1.0]], [["a", 1.0], ["b", 2.1]], [["a", 1.0], ["c", 2.0]], [["a", 1.0], ["b"]]],
    ids=["a row less", "a number", "a text", "a column less"],
)
def test_another_answer_is_refused(other: list[list[object]]):
    answers = Answers()
    answers.check("q1", [["a", 1.0], ["b", 2.0]])
    answers.check("q1", [["a", 1.0], ["b", 2.0 + 1e-9]])
    with pytest.raises(RuntimeError, match="q1 has another answer"):
        answers.check("q1", other)


def test_a_system_that_there_is_not():
    with pytest.raises(Unavailable, match="there is no system 'nobody'"):
        system_named("nobody")
