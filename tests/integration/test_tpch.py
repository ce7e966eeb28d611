"""TPC-H: six of its queries as flows, over the files of its generator, against SQL over the same files in DuckDB.

DuckDB computes amounts as decimals, exactly; flows as floats.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

import millstream as ms
from benchmarks.batch.data import generate, simplify
from benchmarks.batch.flows import FLOWS
from benchmarks.batch.sql import QUERIES, TABLES
from benchmarks.harness import Unavailable

duckdb = pytest.importorskip("duckdb", reason="duckdb is not installed: it knows the answers")

SCALE = 0.01


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tpch")
    try:
        generate(directory, SCALE)
    except Unavailable as error:
        pytest.skip(str(error))
    return directory


@pytest.fixture(scope="module")
def plain(generated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("plain")
    assert simplify(generated, directory) > 76_000
    return directory


def oracle(directory: Path, query: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    with duckdb.connect() as connection:
        for table in TABLES:
            connection.from_parquet(str(directory / f"{table}.parquet")).create_view(table)
        answer = connection.execute(QUERIES[query])
        return [column[0] for column in answer.description], answer.fetchall()


def same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, float):
        return math.isclose(ours, float(theirs), rel_tol=1e-9)
    return bool(ours == theirs)


@pytest.mark.parametrize("stored", ["generated", "plain"])
@pytest.mark.parametrize("query", QUERIES)
def test_a_flow_gives_the_answer_of_sql(
    query: str, stored: str, generated: Path, store_path: Path, request: pytest.FixtureRequest
):
    directory: Path = request.getfixturevalue(stored)
    names, rows = oracle(generated, query)
    with ms.App("tpch", store=store_path) as app:
        tables = {name: app.read(directory / f"{name}.parquet") for name in TABLES}
        table = FLOWS[query](tables).collect()
    assert table.column_names == names
    ours = list(zip(*(column.to_pylist() for column in table.columns), strict=True))
    assert rows, "an answer without rows proves nothing"
    assert len(ours) == len(rows)
    for our_row, their_row in zip(ours, rows, strict=True):
        assert all(map(same, our_row, their_row)), f"{our_row} is not {their_row}"


def test_every_query_is_a_flow():
    assert list(FLOWS) == list(QUERIES)
