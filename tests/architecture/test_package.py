"""What is published: one wheel for every machine, with all that the library reads at run time."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.architecture.tree import ROOT, SOURCE, files


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the tree as it is by the locked backend."""
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(target)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    [path] = target.glob("*.whl")
    return path


def test_one_wheel_serves_every_machine(wheel: Path):
    assert wheel.name.endswith("-py3-none-any.whl"), "the wheel has a compile step"


def test_the_wheel_holds_every_file_of_the_library(wheel: Path):
    packed = set(zipfile.ZipFile(wheel).namelist())
    wanted = {path.relative_to(ROOT / "src").as_posix() for path in files("src")}
    assert wanted - packed == set(), "missing from the wheel"
    extra = {entry for entry in packed - wanted if ".dist-info/" not in entry}
    assert extra == set(), "in the wheel but not in the tree"


def test_the_types_are_published():
    assert (SOURCE / "py.typed").is_file(), (
        "src/millstream/py.typed tells checkers that we are typed"
    )


def test_the_command_is_installed(wheel: Path):
    archive = zipfile.ZipFile(wheel)
    [entry_points] = [entry for entry in archive.namelist() if entry.endswith("entry_points.txt")]
    assert "millstream = millstream.cli.main:main" in archive.read(entry_points).decode()
