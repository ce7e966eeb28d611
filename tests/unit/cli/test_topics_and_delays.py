"""``millstream topics`` and ``millstream delays``: what they show, and that they only look."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import millstream as ms
from millstream.cli.delays import delays
from millstream.cli.main import main
from millstream.cli.topics import topics
from millstream.primitives.histogram import PHASES
from millstream.testing.clock import VirtualClock


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    path = tmp_path / "shop.mill"
    with ms.App("shop", store=path, durability="process") as app:
        orders = app.topic("orders", schema={"n": int}, partitions=3)
        orders.append([{"n": n} for n in range(1_234)])
        app.topic("empty", schema={"n": int}).append([])
        for group, events in (("audit", 1_000), ("report", 34)):
            consumer = orders.consume(group, batch_events=events, follow=False, auto_commit=False)
            consumer.poll(5)
            consumer.commit()
            consumer.close()
    return path


def run_a_flow(path: Path, clock: VirtualClock) -> None:
    with ms.App("shop", store=path, clock=clock) as app:
        app.read([{"n": 1}, {"n": 2}]).filter(ms.col("n") > 1).write("large").run()


def rows(output: str) -> list[list[str]]:
    """Return the cells of each row of a drawn table."""
    return [
        [cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")]
        for line in output.splitlines()
        if line.startswith(("│", "┃"))
    ]


def test_topics_are_listed_with_their_size_and_the_lag_of_each_group(shop: Path):
    result = CliRunner().invoke(topics, [str(shop)])
    assert result.exit_code == 0
    head, *listed = rows(result.output)
    assert head == ["topic", "partitions", "events", "size", "group", "lag"]
    empty, audit, report = listed
    assert (empty[:3], empty[4:]) == (["empty", "1", "0"], ["–", "–"])
    assert (audit[:3], audit[4:]) == (["orders", "3", "1,234"], ["audit", "234"])
    assert (report[:4], report[4:]) == ([""] * 4, ["report", "1,200"])
    assert audit[3].endswith("kB")


def test_nothing_was_run_yet(shop: Path):
    result = CliRunner().invoke(delays, [])
    assert result.exit_code == 0
    assert "Nothing was run yet" in result.output


def test_the_four_delays_are_shown_a_row_each(shop: Path):
    run_a_flow(shop, VirtualClock())
    result = CliRunner().invoke(delays, [str(shop)])
    assert result.exit_code == 0
    assert "batch large" in result.output
    firsts = [line.split()[0] for line in result.output.splitlines() if line.strip()]
    assert tuple(word for word in firsts if word in PHASES) == PHASES


def test_only_the_last_so_much_time_is_shown(shop: Path):
    run_a_flow(shop, VirtualClock())  # in 2023
    old = CliRunner().invoke(delays, [str(shop), "--since", "1h"])
    assert "not in that time" in old.output


def exit_of(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_a_duration_that_is_none_is_refused(shop: Path, capsys: pytest.CaptureFixture[str]):
    assert exit_of("delays", str(shop), "--since", "yesterday") == 2
    assert "ConfigurationError: 'yesterday' is not a duration" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["topics", "delays"])
def test_a_look_at_what_is_not_a_store_makes_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
):
    empty, other = tmp_path / "empty", tmp_path / "other"
    empty.mkdir()
    other.mkdir()
    (other / "thesis.txt").write_text("x")
    for path in (empty, other, tmp_path / "nothing", other / "thesis.txt"):
        assert exit_of(command, str(path)) == 2
        assert "next: " in capsys.readouterr().err
    assert list(empty.iterdir()) == []
    assert [each.name for each in other.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("command", ["topics", "delays", "check"])
def test_without_a_name_there_must_be_exactly_one_store(
    shop: Path, capsys: pytest.CaptureFixture[str], command: str
):
    ms.App("second", store=shop.parent / "second.mill").topics()
    assert exit_of(command) == 2
    said = capsys.readouterr().err
    assert "2 stores here" in said
    assert "second.mill" in said


def test_the_real_program_shows_the_same(shop: Path):
    command = [sys.executable, "-m", "millstream", "topics"]
    result = subprocess.run(
        command, cwd=shop.parent, capture_output=True, text=True, check=False, timeout=60
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert "orders" in result.stdout
    assert "1,234" in result.stdout
