"""Batches over files, tables and topics: what they read, how they write, what they refuse."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from millstream.engines.local import flow_sources
from millstream.engines.local.delays import read_delays
from millstream.flows import aggregate as agg
from millstream.flows.expression import Expression, col
from millstream.flows.report import Progress
from millstream.flows.windows import tumbling
from millstream.primitives.errors import PlanError, SchemaError, StepError, UnknownTopic
from millstream.primitives.schema import Timestamp
from millstream.testing.flows_suite import LocalWorld, at
from tests.refusals import refused

FRAME = pl.DataFrame({"k": ["a", "b", "a"], "n": [1, 2, 3]})


@pytest.fixture
def world(store_path: Path) -> Iterator[LocalWorld]:
    with LocalWorld(store_path) as world:
        yield world


def save(frame: pl.DataFrame, path: Path) -> None:
    writers = {
        ".parquet": frame.write_parquet,
        ".csv": frame.write_csv,
        ".jsonl": frame.write_ndjson,
        ".arrow": frame.write_ipc,
    }
    writers[path.suffix](path)


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl", ".arrow"])
def test_files_of_every_format(world: LocalWorld, tmp_path: Path, suffix: str):
    for part in range(2):
        save(FRAME, tmp_path / f"part{part}{suffix}")
    for what in (tmp_path / f"*{suffix}", str(tmp_path / f"part?{suffix}")):
        flow = world.flows.read(what).group_by("k").agg(n=agg.sum("n"))
        report = flow.run()
        assert report.table is not None
        assert report.table.to_pylist() == [{"k": "a", "n": 8}, {"k": "b", "n": 4}]
        assert (report.rows_in, report.rows_out) == (6, 2)


def test_a_limit_counts_the_rows_before_a_filter_behind_it(world: LocalWorld):
    rows = [{"n": n} for n in range(20)]
    world.topic("numbers", {"n": int})
    world.append("numbers", rows)
    flows = [
        world.read("numbers"),
        world.flows.read(lambda: iter(rows), schema={"n": int}),
        world.read("numbers").map_batches(lambda batches: batches, {"n": int}),
        world.flows.read(rows),
    ]
    for flow in flows:
        behind = flow.limit(5).filter(col("n") > 2)
        assert behind.collect()["n"].to_pylist() == [3, 4]
        before = flow.filter(col("n") > 2).limit(2).filter(col("n") > 3)
        assert before.collect()["n"].to_pylist() == [4]


def test_functions_of_batches_take_and_give_polars_frames(world: LocalWorld):
    world.topic("numbers", {"n": int})
    world.append("numbers", [{"n": n} for n in range(5)])

    def squared(frames: Iterator[pl.DataFrame]) -> Iterator[pl.DataFrame]:
        for frame in frames:
            yield frame.select(square=pl.col("n").cast(pl.Int32) ** 2)

    def of_arrow(batches: Iterator[pa.RecordBatch]) -> Iterator[pl.DataFrame]:
        yield from squared(pl.DataFrame(batch) for batch in batches)

    for number, flow in enumerate(
        [
            world.read("numbers").map_batches(squared, {"square": int}, frames="polars"),
            world.read("numbers").map_batches(of_arrow, {"square": int}),
        ]
    ):
        assert flow.collect()["square"].to_pylist() == [0, 1, 4, 9, 16]
        flow.write(f"out{number}").stream(until="end", batch_events=2)
        assert [row["square"] for row in world.events(f"out{number}")] == [0, 1, 4, 9, 16]
    with refused(PlanError, "frames='pandas'", "step 1, map_batches"):
        world.read("numbers").map_batches(squared, {"square": int}, frames="pandas")
    lazy = world.read("numbers").map_batches(lambda batches: [pl.LazyFrame()], {"n": int})
    with refused(StepError, "yielded a LazyFrame", "collect()"):
        lazy.collect()


@pytest.mark.parametrize("rows", [1.5, "3", None, True, -1])
def test_a_limit_is_a_whole_number(world: LocalWorld, rows: Any):
    with refused(PlanError, f"limit({rows!r})", "step 1, limit"):
        world.flows.read(FRAME).limit(rows)


@pytest.mark.parametrize(
    ("table", "saying"),
    [
        ([{"n": 2**70}], "too large"),
        (["a.csv", "b.csv"], "one path with *"),
        ([], "there is no column"),
        (pa.table([pa.array([1]), pa.array([2])], names=["n", "n"]), "'n'"),
        (pa.table({"": [1]}), "''"),
    ],
)
def test_tables_without_proper_columns_are_refused(world: LocalWorld, table: Any, saying: str):
    with refused(PlanError, saying, "read(…)"):
        world.flows.read(table)


def test_a_schema_is_a_mapping(world: LocalWorld):
    with refused(SchemaError, "None is no schema", somewhere=False):
        world.flows.read(FRAME).map(lambda row: row, None)  # type: ignore[arg-type]


def test_a_directory_of_files(world: LocalWorld, tmp_path: Path):
    folder = tmp_path / "data"
    folder.mkdir()
    save(FRAME, folder / "one.parquet")
    assert world.flows.read(folder).collect().num_rows == 3


def test_files_are_refused_by_name_and_format(world: LocalWorld, tmp_path: Path):
    with pytest.raises(PlanError, match="no file matches"):
        world.flows.read(tmp_path / "*.parquet")
    with pytest.raises(PlanError, match="is not known"):
        world.flows.read(tmp_path / "data.xlsx")
    (tmp_path / "bad.parquet").write_text("no parquet")
    with pytest.raises(PlanError, match="cannot be read as parquet"):
        world.flows.read(tmp_path / "bad.parquet")
    with pytest.raises(PlanError, match="cannot be read as a table"):
        world.flows.read(5)
    with pytest.raises(UnknownTopic):
        world.read("nothing")


def test_a_parquet_file_replaces_the_older_one(world: LocalWorld, tmp_path: Path):
    target = tmp_path / "out.parquet"
    for limit in (0, 2):
        report = world.table(FRAME).filter(col("n") > limit).write(target).run()
        assert pl.read_parquet(target).height == report.rows_out
    assert [path.name for path in tmp_path.glob("*.parquet")] == ["out.parquet"]
    assert not list(tmp_path.glob("*.partial"))


def test_a_directory_gets_a_file_for_each_run(world: LocalWorld, tmp_path: Path):
    flow = world.table(FRAME).write(f"{tmp_path}/out/")
    flow.run()
    flow.run()
    assert len(list((tmp_path / "out").glob("*.parquet"))) == 2
    assert world.flows.read(tmp_path / "out").collect().num_rows == 6


def test_a_failing_run_leaves_the_older_file(world: LocalWorld, tmp_path: Path):
    target = tmp_path / "out.parquet"
    world.table(FRAME).write(target).run()
    with pytest.raises(StepError, match="64 bits"):
        world.table(FRAME).with_columns(n=col("n") * 2**62).write(target).run()
    assert pl.read_parquet(target).height == 3
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == ["out.parquet"]


def test_a_topic_is_read_in_pieces_with_progress(
    world: LocalWorld, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(flow_sources, "BATCH_READ_EVENTS", 10)
    world.topic("events", {"n": int}, partitions=2)
    world.append("events", [{"n": n} for n in range(95)])
    seen: list[Progress] = []
    report = world.read("events").agg(n=agg.sum("n")).run(progress=seen.append)
    assert report.table is not None
    assert report.table.to_pylist() == [{"n": sum(range(95))}]
    assert [p.rows_done for p in seen] == sorted(p.rows_done for p in seen)
    assert seen[-1] == Progress(95, 95)
    assert len(seen) >= 10


def test_a_batch_reads_what_is_there_at_its_start(world: LocalWorld):
    world.topic("events", {"n": int})
    world.append("events", [{"n": 1}])

    def append(_: Progress) -> None:
        world.append("events", [{"n": 2}])

    assert world.read("events").run(progress=append).rows_in == 1
    assert world.read("events").run().rows_in == 2


def test_a_run_over_nothing(world: LocalWorld):
    world.topic("events", {"n": int, "at": Timestamp})
    windowed = world.read("events").window(tumbling("1h"), on="at").agg(n=agg.sum("n"))
    assert windowed.write("out").run().rows_out == 0
    assert windowed.collect().num_rows == 0
    assert world.events("out") == []


def test_several_aggregations_follow_each_other(world: LocalWorld):
    flow = (
        world.table(FRAME).group_by("k").agg(n=agg.sum("n")).agg(top=agg.max("n"), all=agg.sum("n"))
    )
    assert flow.collect().to_pylist() == [{"top": 4, "all": 6}]


def test_the_delays_of_a_run_are_stored(world: LocalWorld):
    world.topic("events", {"n": int, "at": Timestamp})
    world.append("events", [{"n": n, "at": at(n)} for n in range(5)])
    windowed = world.read("events").window(tumbling("1h"), on="at").agg(n=agg.sum("n"))
    windowed.write("out").run()
    stored = read_delays(world.store)["batch", "out"]
    assert {phase: h.count for phase, h in stored.items()} == {
        "source_wait": 5, "start_wait": 5, "process": 5, "publish": 5,
    }  # fmt: skip


def test_an_output_topic_is_made_with_key_and_partitions(world: LocalWorld):
    world.table(FRAME).write("out", key="k", partitions=3).run()
    info = world.log.topic("out")
    assert (info.key, info.partitions) == ("k", 3)
    world.table(FRAME).write("out").run()
    assert len(world.events("out")) == 6


def test_an_output_topic_with_other_columns_is_refused(world: LocalWorld):
    world.topic("out", {"k": str | None, "n": str | None})
    with pytest.raises(PlanError, match="does not fit the columns of topic 'out'"):
        world.table(FRAME).write("out").run()


def test_a_null_in_a_topic_that_has_none_is_refused(world: LocalWorld):
    world.topic("out", {"n": int})
    flow = world.table(pa.table({"n": [1, None]})).write("out")
    with pytest.raises(SchemaError):
        flow.run()
    assert world.events("out") == []


def test_a_function_gets_all_batches_and_may_change_their_number(world: LocalWorld):
    def totals(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        total = sum(sum(batch["n"].to_pylist()) for batch in batches)
        yield pa.RecordBatch.from_pylist([{"total": total}])

    flow = world.table(FRAME).filter(col("n") > 1).map_batches(totals, {"total": int})
    assert flow.with_columns(twice=col("total") * 2).collect().to_pylist() == [
        {"total": 5, "twice": 10}
    ]


@pytest.mark.parametrize(
    ("yielded", "words"),
    [
        (pa.RecordBatch.from_pylist([{"other": 1}]), "another schema: other"),
        (pa.RecordBatch.from_pylist([{"total": "x"}]), "another schema: total: string"),
        ({"total": 1}, "yielded a dict"),
    ],
)
def test_a_function_that_breaks_its_promise(world: LocalWorld, yielded: object, words: str):
    def wrong(_: Iterator[pa.RecordBatch]) -> Iterator[object]:
        yield yielded

    flow = world.table(FRAME).map_batches(wrong, {"total": int}).write("out")
    with pytest.raises(StepError, match=words) as failed:
        flow.run()
    assert failed.value.where == "step 1, map_batches"
    assert world.events("out") == []


def test_a_function_that_raises(world: LocalWorld):
    def fails(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield from batches
        raise ValueError("no luck")

    with pytest.raises(StepError, match="ValueError: no luck"):
        world.table(FRAME).map_batches(fails, {"k": str, "n": int}).collect()


def test_a_cast_that_does_not_fit_names_the_value(world: LocalWorld):
    table = pa.table({"s": ["1", "one"]})
    with pytest.raises(StepError, match="one"):
        world.table(table).with_columns(n=col("s").cast(int)).collect()


STREAM_REFUSED = {
    "a table": lambda w: w.table(FRAME).write("out"),
    "nowhere to write": lambda w: w.read("events"),
    "a file": lambda w: w.read("events").write("out.parquet"),
    "a circle": lambda w: w.read("events").write("events"),
    "a group without a window": lambda w: w.read("events").group_by("n").agg(c=agg.count()).write("out"),
    "an aggregate without a window": lambda w: w.read("events").agg(c=agg.count()).write("out"),
    "two aggregations": lambda w: (
        w.read("events").window(tumbling("1h"), on="at").agg(c=agg.count(), t=agg.max("at"))
        .window(tumbling("1d"), on="t").agg(c=agg.count()).write("out")
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", STREAM_REFUSED)
def test_what_cannot_be_streamed_is_refused_before_it_starts(world: LocalWorld, case: str):
    world.topic("events", {"n": int, "at": Timestamp})
    with pytest.raises(PlanError) as refused:
        STREAM_REFUSED[case](world).stream(until="end")
    assert refused.value.where
    assert refused.value.expected


def test_dates_and_times_of_files(world: LocalWorld, tmp_path: Path):
    moment = datetime(2026, 5, 1, 12, 30, tzinfo=UTC)
    save(pl.DataFrame({"at": [moment.replace(tzinfo=None)]}), tmp_path / "t.csv")
    flow = world.flows.read(tmp_path / "t.csv").window(tumbling("1h"), on="at").agg(n=agg.count())
    assert flow.collect().to_pylist()[0]["window_start"] == moment.replace(minute=0)


def counted(rows: int) -> Iterator[dict[str, object]]:
    for n in range(rows):
        yield {"k": "ab"[n % 2], "n": n}


ROWS = {"k": str, "n": int}


@pytest.mark.parametrize("rows", [0, 1, 9_999, 10_000, 25_000])
def test_dicts_are_read_piece_by_piece(world: LocalWorld, rows: int) -> None:
    async def awaited() -> AsyncIterator[dict[str, object]]:
        for row in counted(rows):
            yield row

    whole = list(counted(rows))
    for given in (whole, lambda: counted(rows), counted(rows), awaited, awaited()):
        flow = world.flows.read(given, schema=ROWS).filter(col("n") >= 0)
        assert flow.collect().to_pylist() == whole
    report = world.flows.read(whole, schema=ROWS).write("out").run()
    assert (report.rows_in, report.rows_out) == (rows, rows)


def test_no_more_dicts_are_taken_than_are_asked_for(world: LocalWorld) -> None:
    taken = []

    def endless() -> Iterator[dict[str, object]]:
        for n in itertools.count():
            taken.append(n)
            yield {"k": "a", "n": n}

    rows = world.flows.read(endless, schema=ROWS).limit(3).collect().to_pylist()
    assert [row["n"] for row in rows] == [0, 1, 2]
    assert len(taken) <= 50_000


def test_a_generator_is_read_once_and_a_function_as_often_as_asked(world: LocalWorld) -> None:
    once = world.flows.read(counted(3), schema=ROWS)
    assert once.collect().num_rows == 3
    with refused(StepError, "read already", "the function that makes the generator"):
        once.collect()
    again = world.flows.read(lambda: counted(3), schema=ROWS)
    assert again.union(again).collect().num_rows == again.collect().num_rows * 2 == 6


def test_what_dicts_get_wrong_is_said(world: LocalWorld) -> None:
    def broken() -> Iterator[dict[str, object]]:
        yield {"k": "a", "n": 1}
        raise ValueError("the sensor is off")

    wrong: dict[str, object] = {
        "the sensor is off": broken,
        "unknown column 'm'": [{"k": "a", "m": 1}],
        "is a int": [1],
        "reading raised TypeError": lambda: 3,
        "column 'n'": [{"k": "a", "n": "one"}],
    }
    for said, rows in wrong.items():
        flow = world.flows.read(rows, schema=ROWS).write("out")
        with refused(StepError, said):
            flow.run()
        assert world.events("out") == []
    with refused(PlanError, "does not grow", "append it to a topic"):
        world.flows.read(broken, schema=ROWS).write("out").stream()
    for table in (FRAME, FRAME.to_arrow()):
        with refused(PlanError, "columns already"):
            world.flows.read(table, schema=ROWS)
    with pytest.raises(PlanError, match="a int cannot be read"):
        world.flows.read(3, schema=ROWS)


@pytest.mark.parametrize(
    "condition",
    [col("x") / col("y") > 2, col("x") // col("y") > 2, col("x") % col("y") > 2],
    ids=["/", "//", "%"],
)
def test_a_filter_that_divides_floats_of_a_topic(world: LocalWorld, condition: Expression):
    # Polars would hand the condition on to the source, which is written in Python, and as a pickle.
    world.topic("pairs", {"x": float, "y": float})
    world.append("pairs", [{"x": 19.0, "y": 4.0}, {"x": 1.0, "y": 4.0}, {"x": 1.0, "y": 0.0}])
    assert world.read("pairs").filter(condition).collect().to_pylist() == [{"x": 19.0, "y": 4.0}]
