"""Places that are soon full, as fixtures: a small file system of its own, and a limit on the size of files."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

DISK_BYTES = 5_000_000


def hard_limit() -> int:
    return resource.getrlimit(resource.RLIMIT_FSIZE)[1]


def mounted(folder: Path) -> bool:
    """Mount a small file system in memory there, if this machine lets us."""
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        return False
    command = [mount, "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", str(folder)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of its own, or a plain one where files are limited instead."""
    folder = tmp_path / "small"
    folder.mkdir()
    is_mounted = mounted(folder)
    yield folder
    if is_mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True, capture_output=True)


@pytest.fixture
def limited(tmp_path: Path) -> Path:
    """A folder on a large file system: the process may write only small files."""
    folder = tmp_path / "limited"
    folder.mkdir()
    return folder
