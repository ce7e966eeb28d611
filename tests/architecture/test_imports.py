"""The folders are the architecture: import-linter holds the contracts of importlinter.ini."""

from __future__ import annotations

import ast
import configparser
import subprocess
import sys
from pathlib import Path

from tests.architecture.tree import ROOT, SOURCE, files, name, report


def test_the_contracts_are_kept():
    command = [Path(sys.executable).with_name("lint-imports"), "--config", "importlinter.ini"]
    linted = subprocess.run(
        [*command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert linted.returncode == 0, linted.stdout + linted.stderr


def test_every_contract_is_there():
    contracts = configparser.ConfigParser()
    contracts.read(ROOT / "importlinter.ini")
    assert set(contracts.sections()) == {
        "importlinter",
        "importlinter:contract:layers",
        "importlinter:contract:engines",
        "importlinter:contract:store",
        "importlinter:contract:pure",
        "importlinter:contract:gateway",
        "importlinter:contract:foreign",
    }


def test_a_folder_without_python_does_not_exist():
    # A folder stands for something that works. Empty ones lie about what the library can do.
    folders = {path.parent for path in files("src/millstream/*")} - {SOURCE / "store" / "sql"}
    empty = [
        name(folder)
        for folder in sorted(folders)
        if not any(folder.glob("*.py")) and "store" not in folder.relative_to(SOURCE).parts
    ]
    report("These folders hold no module:", empty)


def test_nothing_imports_a_test_module():
    breaches = [
        f"{name(path)}:{node.lineno} imports {node.module}"
        for path in files("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module
        if node.module.rpartition(".")[2].startswith("test_")
    ]
    report("What tests share lives in a module of its own:", breaches)


def test_the_library_imports_neither_tests_nor_benchmarks():
    breaches = [
        f"{name(path)}:{node.lineno} imports {node.module}"
        for path in files("src/*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module
        if node.module.partition(".")[0] in {"tests", "benchmarks"}
    ]
    report("The library stands alone:", breaches)
