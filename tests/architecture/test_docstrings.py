"""The examples in docstrings run, in a directory of their own."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

from tests.architecture.tree import ROOT, files, report


def modules() -> list[str]:
    """Every module of the library whose text holds an example."""
    return [
        ".".join(path.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__")
        for path in files("src/millstream/*.py")
        if ">>> " in path.read_text(encoding="utf-8")
    ]


def test_the_examples_of_every_module_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    breaches = []
    for module in modules():
        place = tmp_path / module
        place.mkdir()
        monkeypatch.chdir(place)
        failed, tried = doctest.testmod(
            importlib.import_module(module), optionflags=doctest.ELLIPSIS
        )
        if not tried:
            breaches.append(f"{module}: holds an example that doctest does not find")
        if failed:
            breaches.append(f"{module}: {failed} of {tried} failed, see the output above")
    report("Examples in docstrings run:", breaches)
