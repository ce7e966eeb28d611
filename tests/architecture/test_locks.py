"""The lock files: every package has its hashes, nothing names a machine, nothing is forgotten."""

from __future__ import annotations

import re
import tomllib
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.architecture.tree import ROOT, files, name, report

ENGINES = ("bytewax", "flink", "pathway", "pyspark")
"""Each is installed into an environment of its own, beside ``build``."""
TOGETHER = ("build", "dev", "demo", "bench", "honker", "lock")
LOCKS = [ROOT / "requirements" / f"{lock}.txt" for lock in (*TOGETHER, *ENGINES)]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]
GROUPS = PROJECT["dependency-groups"]


def entries(lock: Path) -> list[str]:
    """The pins of a lock file, each with its hashes on one line and without comments."""
    text = re.sub(r"^\s*#.*$", "", lock.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [line.strip() for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def pins(lock: Path) -> dict[str, list[Requirement]]:
    found: dict[str, list[Requirement]] = {}
    for entry in entries(lock):
        requirement = Requirement(entry.partition("--hash")[0])
        found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


def unlocked(wanted: list[str], lock: Path) -> list[str]:
    """The requirements that no pin of this lock file satisfies."""
    locked = pins(lock)
    breaches = []
    for text in wanted:
        requirement = Requirement(text)
        versions = [
            str(pin.specifier).removeprefix("==")
            for pin in locked.get(canonicalize_name(requirement.name), [])
        ]
        if not versions or not all(version in requirement.specifier for version in versions):
            breaches.append(f"{name(lock)}: {text} is locked at {versions or 'nothing'}")
    return breaches


def test_these_are_the_lock_files():
    kept = {path for path in files("requirements/*") if path.name != "excludes.txt"}
    assert kept == set(LOCKS)


@pytest.mark.parametrize("lock", LOCKS, ids=name)
def test_every_entry_is_one_version_with_its_hashes(lock: Path):
    shape = re.compile(r"[\w.-]+==[\w.+!-]+( ; [^;]+?)?(\s+--hash=sha256:[0-9a-f]{64})+")
    breaches = [
        f"{name(lock)}: {entry[:100]}" for entry in entries(lock) if not shape.fullmatch(entry)
    ]
    report("An entry is name==version, a marker and hashes, and nothing else:", breaches)


@pytest.mark.parametrize("lock", LOCKS, ids=name)
def test_no_lock_names_a_place(lock: Path):
    place = re.compile(r"://|--(extra-)?index|--find-links|--trusted|(^|\s)(/|file:|[A-Z]:\\)")
    lines = enumerate(lock.read_text(encoding="utf-8").splitlines(), start=1)
    breaches = [f"{name(lock)}:{number}: {line}" for number, line in lines if place.search(line)]
    report("A lock file says what, never from where:", breaches)


def test_everything_that_is_asked_for_is_locked():
    core = PROJECT["project"]["dependencies"]
    demo = [*core, *EXTRAS["demo"]]
    wanted = {
        "build": [*GROUPS["build"], *PROJECT["build-system"]["requires"]],
        "dev": [
            *demo,
            *EXTRAS["django"],
            *EXTRAS["fsspec"],
            *EXTRAS["http"],
            *EXTRAS["sql"],
            *GROUPS["dev"],
        ],
        "demo": demo,
        "bench": GROUPS["bench"],
        "honker": GROUPS["honker"],
        "lock": GROUPS["lock"],
        **{engine: GROUPS[engine] for engine in ENGINES},
    }
    report(
        "Run `make lock`:",
        [breach for lock in LOCKS for breach in unlocked(wanted[lock.stem], lock)],
    )


def test_two_locks_never_disagree():
    # They are installed into one environment, in any order. Those of the engines are not.
    versions: dict[str, dict[str, set[str]]] = {}
    for lock in (lock for lock in LOCKS if lock.stem in TOGETHER):
        for package, requirements in pins(lock).items():
            versions.setdefault(package, {})[lock.name] = {
                str(pin.specifier) for pin in requirements
            }
    breaches = [
        f"{package}: {by_lock}"
        for package, by_lock in versions.items()
        if len(set(map(frozenset, by_lock.values()))) > 1
    ]
    report("Run `make lock`:", breaches)


def test_every_dependency_has_its_reason():
    asked = [
        *PROJECT["project"]["dependencies"],
        *chain.from_iterable([*EXTRAS.values(), *GROUPS.values()]),
    ]
    decisions = "\n".join(
        path.read_text(encoding="utf-8") for path in files("docs/decisions/*.md")
    ).lower()
    breaches = [
        Requirement(text).name for text in asked if Requirement(text).name.lower() not in decisions
    ]
    report("Write down why it is here in docs/decisions:", breaches)
