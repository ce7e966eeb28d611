"""The files that belong to the project, as the tests of the house look at them."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "millstream"


@functools.cache
def files(*patterns: str) -> tuple[Path, ...]:
    """Every file that git tracks or would offer to add, so a breach shows before it is committed.

    Args:
        patterns: git pathspecs such as ``"*.py"`` or ``"src"``; all files when there are none.
    """
    # Root may test a clone that somebody else owns; git would refuse to list it.
    command = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z"]
    command += ["--cached", "--others", "--exclude-standard", "--", *patterns]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        raise RuntimeError(f"the tidy tests need git and a clone: {listed.stderr.strip()}")
    names = sorted(set(listed.stdout.split("\0")) - {""})
    return tuple(ROOT / name for name in names if (ROOT / name).is_file())


def name(path: Path) -> str:
    """The path as messages show it, from the root of the project."""
    return path.relative_to(ROOT).as_posix()


def report(rule: str, breaches: list[str]) -> None:
    """Fail with the rule and every place that breaks it; do nothing when there is none."""
    assert not breaches, "\n".join([rule, *(f"  {breach}" for breach in breaches)])
