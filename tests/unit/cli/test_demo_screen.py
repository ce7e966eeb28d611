"""What a person sees where nobody watches: plain lines, whole figures, no bars."""

from __future__ import annotations

import click
import pytest

from millstream.cli.flights.screen import Screen, per_second, require, seconds


def test_a_long_fact_goes_on_below_its_beginning(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().fact("read", "word " * 30 + "12 s and [no markup]")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("  read      word word")
    assert lines[1].startswith(" " * 12 + "word")
    assert lines[1].endswith("[no markup]")
    assert all(line == line.rstrip() for line in lines)


def test_no_line_ends_between_a_figure_and_its_unit(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    for length in range(60, 110):
        screen.good("x" * length + " 12 ms")
    lines = capsys.readouterr().out.splitlines()
    assert not any(line.endswith("12") for line in lines)
    assert sum("12 ms" in line for line in lines) == 50


def test_a_path_is_never_broken(capsys: pytest.CaptureFixture[str]) -> None:
    path = "/".join(["long name"] * 40)
    Screen().whole("store", path)
    assert capsys.readouterr().out == f"  store     {path}\n"


def test_where_nobody_watches_there_are_no_bars(capsys: pytest.CaptureFixture[str]) -> None:
    with Screen().bars(append=10) as bars:
        bars["append"](5)
    assert capsys.readouterr().out == ""


def test_a_broken_promise_ends_the_demo_with_1() -> None:
    require(True, "nothing")
    with pytest.raises(click.ClickException, match="half of it") as caught:
        require(False, "half of it is gone")
    assert caught.value.exit_code == 1


def test_a_table_of_plain_spaces_breaks_only_between_figures(
    capsys: pytest.CaptureFixture[str],
) -> None:
    screen = Screen()
    rows = [("tasks, mail", "4.35 ms · 9.73 ms", "7.93 ms")]
    screen.table(("", "process", "publish"), rows)
    assert capsys.readouterr().out.splitlines()[1].split("  ")[1:] == [
        "tasks, mail",
        "4.35 ms · 9.73 ms",
        "7.93 ms",
    ]
    screen.console.width = 34
    screen.table(("", "process", "publish"), rows)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["tasks,", "mail", "4.35", "ms", "·", "7.93", "ms"],
        ["9.73", "ms"],
    ]


@pytest.mark.parametrize(
    ("count", "duration_s", "shown"),
    [
        (1_230_000, 1, "1.23 M"),
        (45_600, 1, "46 k"),
        (1_234, 1, "1,234"),
        (47, 1, "47"),
        (1, 0, "0"),
    ],
)
def test_a_rate_has_digits_that_mean_something(count: int, duration_s: float, shown: str) -> None:
    assert per_second(count, duration_s) == shown
    assert seconds(duration_s) == f"{duration_s}.00 s"
