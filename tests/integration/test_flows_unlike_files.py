"""Files that are not as one would wish: batch and stream read the same of them, or both name the file and why."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from millstream.flows.expression import col
from millstream.flows.flow import Flow
from millstream.primitives.errors import PlanError, StepError
from millstream.primitives.schema import Timestamp
from millstream.testing.flows_suite import LocalWorld
from tests.refusals import refused

BINARY: dict[str, Callable[[pl.DataFrame, Path], object]] = {
    "parquet": pl.DataFrame.write_parquet,
    "arrow": pl.DataFrame.write_ipc,
}


@pytest.fixture
def world(store_path: Path) -> Iterator[LocalWorld]:
    with LocalWorld(store_path) as world:
        yield world


def both(world: LocalWorld, flow: Flow) -> list[dict[str, Any]]:
    """Return what a batch gives, which has to be what a stream gives."""
    in_a_batch = sorted(flow.collect().to_pylist(), key=repr)
    flow.write("out").stream(until="end", batch_events=2)
    assert sorted(world.events("out"), key=repr) == in_a_batch
    return in_a_batch


def refused_by_both(flow: Flow, *said: str) -> None:
    for run in (flow.collect, lambda: flow.write("out").stream(until="end")):
        with pytest.raises(StepError) as caught:
            run()
        assert all(part in str(caught.value) for part in said), str(caught.value)


def texts(folder: Path, **contents: str) -> Path:
    """Write files: ``a_csv="…"`` is ``a.csv``."""
    folder.mkdir(exist_ok=True)
    for name, content in contents.items():
        (folder / name.replace("_", ".")).write_text(content)
    return folder


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet", "arrow"])
def test_a_name_with_the_characters_of_patterns_is_that_name(
    world: LocalWorld, tmp_path: Path, suffix: str
):
    write = {"csv": pl.DataFrame.write_csv, "jsonl": pl.DataFrame.write_ndjson, **BINARY}[suffix]
    for number, name in enumerate(["x1", "x[1]", "a*", "ab", "q?"]):
        write(pl.DataFrame({"n": [number]}), tmp_path / f"{name}.{suffix}")
    assert both(world, world.flows.read(tmp_path)) == [{"n": n} for n in range(5)]
    alone = world.flows.read(tmp_path / f"x[1].{suffix}")
    assert alone.collect().to_pylist() == [{"n": 1}]


def test_a_folder_with_brackets_in_its_name_takes_files(world: LocalWorld, tmp_path: Path):
    flow = world.flows.read(pa.table({"n": [1, 2]})).write(f"{tmp_path}/day [1]/")
    assert flow.run().rows_out == 2
    assert world.flows.read(tmp_path / "day [1]").collect().num_rows == 2


def test_a_directory_is_no_file_whatever_its_name(world: LocalWorld, tmp_path: Path):
    folder = texts(tmp_path / "in", a_csv="n\n1\n")
    texts(folder / "old.csv", b_csv="n\n2\n")
    assert both(world, world.flows.read(folder)) == [{"n": 1}]
    everything = world.flows.read(f"{folder}/**", file_format="csv", schema={"n": int})
    assert sorted(everything.collect()["n"].to_pylist()) == [1, 2]


def test_columns_of_csv_are_found_by_name(world: LocalWorld, tmp_path: Path):
    texts(tmp_path, a_csv="a,b\n1,2\n", b_csv="b,a\n20,10\n", c_csv="c,a,b\nx,100,200\n")
    flow = world.flows.read(f"{tmp_path}/*.csv", schema={"a": int, "b": int})
    assert both(world, flow) == [{"a": 1, "b": 2}, {"a": 10, "b": 20}, {"a": 100, "b": 200}]


@pytest.mark.parametrize("suffix", list(BINARY))
def test_columns_are_found_by_name_and_widened(world: LocalWorld, tmp_path: Path, suffix: str):
    frames = [
        pl.DataFrame({"a": [1], "b": [1.5]}),
        pl.DataFrame({"b": [2.5], "a": [2], "c": ["x"]}).cast({"a": pl.Int16, "b": pl.Float32}),
    ]
    for number, frame in enumerate(frames):
        BINARY[suffix](frame, tmp_path / f"{number}.{suffix}")
    rows = both(world, world.flows.read(tmp_path))
    assert rows == [{"a": 1, "b": 1.5}, {"a": 2, "b": 2.5}]


@pytest.mark.parametrize("suffix", list(BINARY))
@pytest.mark.parametrize(
    ("column", "said"),
    [
        (pl.Series("a", [2.5]), "column 'a' is Float64 there, and the flow reads Int64"),
        (pl.Series("a", ["2"]), "column 'a' is String there, and the flow reads Int64"),
        (pl.Series("b", [2]), "it has no column 'a', only b"),
    ],
)
def test_a_file_whose_columns_do_not_fit_is_named(
    world: LocalWorld, tmp_path: Path, suffix: str, column: pl.Series, said: str
):
    BINARY[suffix](pl.DataFrame({"a": [1]}), tmp_path / f"first.{suffix}")
    BINARY[suffix](pl.DataFrame([column]), tmp_path / f"second.{suffix}")
    refused_by_both(world.flows.read(f"{tmp_path}/*.{suffix}"), said, f"second.{suffix}")
    assert world.events("out") == []


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("csv", "n\n1\n", "n\nx\n"),
        ("csv", "n\n1\n", "n\n1,2\n"),
        ("jsonl", '{"n": 1}\n', '{"n": 2}\n{"n":'),
        ("jsonl", '{"n": 1}\n', '{"n": 1.5}\n'),
    ],
)
def test_a_file_whose_rows_cannot_be_parsed_is_named(
    world: LocalWorld, tmp_path: Path, name: str, good: str, bad: str
):
    texts(tmp_path, **{f"a_{name}": good, f"b_{name}": bad, f"c_{name}": good})
    flow = world.flows.read(f"{tmp_path}/*.{name}", schema={"n": int})
    refused_by_both(flow, "the file cannot be read", f"b.{name}")


@pytest.mark.parametrize(("suffix", "row"), [("csv", "n\n1\n"), ("jsonl", '{"n": 1}\n')])
def test_a_text_file_without_a_byte_has_no_rows(
    world: LocalWorld, tmp_path: Path, suffix: str, row: str
):
    texts(tmp_path, **{f"a_{suffix}": "", f"b_{suffix}": row})
    assert both(world, world.flows.read(tmp_path)) == [{"n": 1}]
    texts(tmp_path / "empty", **{f"a_{suffix}": ""})
    with pytest.raises(PlanError, match="nothing is in the files"):
        world.flows.read(tmp_path / "empty")
    texts(tmp_path / "lines", **{f"a_{suffix}": "\n\n"})
    with pytest.raises(PlanError, match=r"nothing is in the files|empty CSV"):
        world.flows.read(tmp_path / "lines")
    declared = world.flows.read(f"{tmp_path}/empty/*.{suffix}", schema={"n": int})
    assert declared.collect().num_rows == 0


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet", "arrow"])
def test_a_stream_waits_for_the_first_byte_of_a_file(
    world: LocalWorld, tmp_path: Path, suffix: str
):
    #   a.csv    made, empty │ its writer writes and closes it
    #   stream        reads nothing                            reads it, once
    path = tmp_path / f"a.{suffix}"
    path.touch()
    flow = world.flows.read(f"{tmp_path}/*.{suffix}", schema={"n": int}).write("out")
    assert flow.stream(until="end").rows_in == 0
    write = {"csv": pl.DataFrame.write_csv, "jsonl": pl.DataFrame.write_ndjson, **BINARY}[suffix]
    write(pl.DataFrame({"n": [1]}), path)
    assert flow.stream(until="end").rows_in == 1
    assert flow.stream(until="end").rows_in == 0
    assert world.events("out") == [{"n": 1}]


def test_a_row_of_json_may_lack_a_key(world: LocalWorld, tmp_path: Path):
    texts(tmp_path, a_jsonl='{"a": 1, "b": "x"}\n{"a": 2}\n', b_jsonl='{"a": 3}\n', c_jsonl="\n\n")
    wanted = [{"a": 1, "b": "x"}, {"a": 2, "b": None}, {"a": 3, "b": None}]
    assert both(world, world.flows.read(tmp_path)) == wanted
    flow = world.flows.read(f"{tmp_path}/*.jsonl", schema={"a": int, "b": str | None})
    assert flow.collect().to_pylist() == wanted


def test_a_key_of_json_that_comes_late_is_a_column(world: LocalWorld, tmp_path: Path):
    texts(tmp_path, a_jsonl='{"a": 1}\n' * 500 + '{"a": 2, "b": 5}\n')
    flow = world.flows.read(tmp_path).filter(col("b").is_not_null())
    assert both(world, flow) == [{"a": 2, "b": 5}]


def test_the_keys_of_json_are_those_of_all_files(world: LocalWorld, tmp_path: Path):
    texts(
        tmp_path,
        a_jsonl='{"a": null, "b": 1}\n',
        b_jsonl='{"a": "x", "c": [1]}\n',
        c_jsonl='{"b": 1.5}\n',
    )
    assert both(world, world.flows.read(tmp_path)) == [
        {"a": "x", "b": None, "c": [1]},
        {"a": None, "b": 1.0, "c": None},
        {"a": None, "b": 1.5, "c": None},
    ]


def test_json_lines_hold_dates_times_and_decimals(world: LocalWorld, tmp_path: Path):
    row = {
        "day": date(1969, 7, 20),
        "at": datetime(2026, 3, 29, 1, 30, tzinfo=UTC),
        "price": Decimal("1.500000000"),
    }
    schema = {"day": date, "at": Timestamp, "price": Decimal}
    world.flows.read([row], schema=schema).write(f"{tmp_path}/rows.jsonl").run()
    assert both(world, world.flows.read(f"{tmp_path}/rows.jsonl", schema=schema)) == [row]


def test_times_of_json_may_be_written_in_several_ways(world: LocalWorld, tmp_path: Path):
    ways = ["2026-03-29T03:30:00+02:00", "2026-03-29 01:30:00", "2026-03-29T01:30Z"]
    texts(tmp_path, a_jsonl="".join(f'{{"at": "{way}"}}\n' for way in ways))
    flow = world.flows.read(f"{tmp_path}/a.jsonl", schema={"at": Timestamp})
    assert both(world, flow) == [{"at": datetime(2026, 3, 29, 1, 30, tzinfo=UTC)}] * 3


@pytest.mark.parametrize(
    ("suffix", "text"), [("csv", "at\n1700000000\n"), ("jsonl", '{"at": 1700000000}\n')]
)
def test_a_number_is_no_time(world: LocalWorld, tmp_path: Path, suffix: str, text: str):
    # Seconds or milliseconds since 1970, taken for microseconds, would all be in 1970.
    texts(tmp_path, **{f"a_{suffix}": text})
    flow = world.flows.read(f"{tmp_path}/*.{suffix}", schema={"at": Timestamp})
    refused_by_both(flow, "the file cannot be read", f"a.{suffix}")


def test_a_column_of_times_may_hold_nothing_in_one_file(world: LocalWorld, tmp_path: Path):
    texts(tmp_path, a_csv="k,at,day\n1,2026-01-01T00:00:00Z,2026-01-01\n", b_csv="k,at,day\n2,,\n")
    schema = {"k": int, "at": Timestamp | None, "day": date | None}
    rows = both(world, world.flows.read(f"{tmp_path}/*.csv", schema=schema))
    assert rows == [
        {"k": 1, "at": datetime(2026, 1, 1, tzinfo=UTC), "day": date(2026, 1, 1)},
        {"k": 2, "at": None, "day": None},
    ]


@pytest.mark.parametrize(("suffix", "text"), [("csv", "n\n{}\n"), ("jsonl", '{{"n": {}}}\n')])
def test_integers_of_more_than_64_bits_are_refused(
    world: LocalWorld, tmp_path: Path, suffix: str, text: str
):
    texts(tmp_path, **{f"a_{suffix}": text.format(2**70)})
    with refused(PlanError, f"a.{suffix}", "64 bits", "schema="):
        world.flows.read(tmp_path)
    as_text = world.flows.read(f"{tmp_path}/*.{suffix}", schema={"n": str})
    assert both(world, as_text) == [{"n": str(2**70)}]


def test_an_arrow_stream_is_no_arrow_file(world: LocalWorld, tmp_path: Path):
    table = pa.table({"n": [1]})
    with pa.ipc.new_stream(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table)
    with refused(PlanError, "a.arrow", "it has no footer", "stream"):
        world.flows.read(tmp_path)
    refused_by_both(world.flows.read(f"{tmp_path}/*.arrow", schema={"n": int}), "it has no footer")


def test_another_encoding_is_refused(world: LocalWorld, tmp_path: Path):
    (tmp_path / "a.csv").write_bytes("name,n\nÄ,1\n".encode("utf-16"))
    with refused(PlanError, "a.csv", "UTF-8", "UTF-16"):
        world.flows.read(tmp_path)


def test_compressed_texts_are_read_by_their_name(world: LocalWorld, tmp_path: Path):
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"n\n1\n2\n3\n"))
    texts(tmp_path, b_csv="n\n4\n")
    assert both(world, world.flows.read(tmp_path)) == [{"n": n} for n in (1, 2, 3, 4)]
    assert world.flows.read(tmp_path / "a.csv.gz").collect().num_rows == 3


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet", "arrow"])
def test_an_output_without_rows_is_a_file_that_can_be_read(
    world: LocalWorld, tmp_path: Path, suffix: str
):
    path = tmp_path / f"none.{suffix}"
    nothing = world.flows.read(pa.table({"n": [1]})).filter(col("n") > 1)
    assert nothing.write(path).run().rows_out == 0
    assert world.flows.read(path, schema={"n": int}).collect().num_rows == 0


def test_a_file_that_cannot_be_renamed_leaves_nothing_behind(world: LocalWorld, tmp_path: Path):
    (tmp_path / "out.csv").mkdir()
    with pytest.raises(StepError, match="cannot be written"):
        world.flows.read(pa.table({"n": [1]})).write(tmp_path / "out.csv").run()
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".partial"] == []


@pytest.mark.parametrize("target", [None, 5, "", "out.json", "out.csv.gz", "Book.XLSX"])
def test_what_is_no_place_is_refused(world: LocalWorld, target: Any):
    with refused(PlanError, repr(target), "step 1, write"):
        world.flows.read(pa.table({"n": [1]})).write(target)


def test_a_text_file_refuses_what_it_cannot_hold_when_it_is_built(world: LocalWorld):
    table = pa.table({"d": pa.array([1], pa.duration("us")), "l": [[b"x"]]})
    with refused(PlanError, "csv cannot hold column 'd'", "step 2, write"):
        world.flows.read(table).select("d").write("d.csv")
    with refused(PlanError, "jsonl cannot hold column 'l'", "step 2, write"):
        world.flows.read(table).select("l").write("l.jsonl")
