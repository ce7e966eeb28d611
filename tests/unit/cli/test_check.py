"""``millstream check``: exit 0 for a sound store, 1 with what and where for a damaged one, 2 for none at all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import millstream as ms
from millstream.cli.check import check
from millstream.cli.main import main


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with events in the catalog and in segments; the current directory is beside it."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "shop.mill"
    with ms.App("shop", store=path) as app:
        orders = app.topic("orders", schema={"n": int, "data": bytes}, partitions=2)
        orders.append([{"n": n, "data": b"x"} for n in range(10)])
        orders.append([{"n": n, "data": bytes(50_000)} for n in range(4)])
    return path


def damage(path: Path) -> Path:
    """Flip a bit in the largest segment."""
    segment = max(path.glob("segments/*/*.frames"), key=lambda each: each.stat().st_size)
    content = bytearray(segment.read_bytes())
    content[len(content) // 2] ^= 4
    segment.write_bytes(content)
    return segment


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "millstream", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=60)


def test_a_sound_store_exits_0_with_its_totals(shop: Path):
    result = CliRunner().invoke(check, [str(shop)])
    assert result.exit_code == 0
    assert "1 topics, 2 partitions" in result.output
    assert "14 events" in result.output
    assert "Everything is as it was committed." in result.output


def test_the_only_store_here_needs_no_name(shop: Path):
    assert str(shop) in CliRunner().invoke(check, []).output


def test_a_damaged_store_exits_1_and_says_what_and_where(shop: Path):
    segment = damage(shop)
    result = CliRunner().invoke(check, [str(shop)])
    assert result.exit_code == 1
    assert "a frame is damaged: checksum" in result.output
    assert "where: topic 'orders', partition" in result.output
    assert str(segment) in result.output
    assert "1 faults" in result.output


def test_a_store_that_is_in_use_is_checked_too(shop: Path):
    with ms.App("shop", store=shop) as app:
        orders = app.topic("orders", schema={"n": int, "data": bytes}, partitions=2)
        orders.append({"n": 1, "data": b""})
        result = CliRunner().invoke(check, [str(shop)])
    assert result.exit_code == 0
    assert "15 events" in result.output


def test_left_over_files_are_counted_and_no_fault(shop: Path):
    left_over = shop / "segments" / "00000001" / "0000000000000999.frames"
    left_over.parent.mkdir(exist_ok=True)
    left_over.write_bytes(b"x")
    result = CliRunner().invoke(check, [str(shop)])
    assert result.exit_code == 0
    assert "1 files are left over" in result.output


def test_a_file_of_somebody_is_a_fault(shop: Path):
    (shop / "segments" / "thesis.txt").write_text("x")
    result = CliRunner().invoke(check, [str(shop)])
    assert result.exit_code == 1
    assert "thesis.txt" in result.output


@pytest.mark.parametrize("what", ["nothing", "a folder", "a file"])
def test_what_is_not_a_store_exits_2_with_the_next_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str
):
    path = tmp_path / "thesis"
    if what == "a folder":
        path.mkdir()
    elif what == "a file":
        path.write_text("x")
    with pytest.raises(SystemExit) as caught:
        main(["check", str(path)])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert "thesis" in said
    assert "next: " in said
    assert "Traceback" not in said


def test_the_real_program_exits_as_its_page_says(shop: Path):
    sound = run("check", cwd=shop.parent)
    assert (sound.returncode, sound.stderr) == (0, "")
    damage(shop)
    damaged = run("check", "shop.mill", cwd=shop.parent)
    assert damaged.returncode == 1
    assert "where: topic 'orders'" in damaged.stdout
    missing = run("check", "other.mill", cwd=shop.parent)
    assert missing.returncode == 2
    assert missing.stdout == ""
    assert "no store 'other.mill'" in missing.stderr
