"""The examples in docstrings run, in a directory of their own."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

from tests.architecture.tree import ROOT, files


def modules() -> list[str]:
    """Every module of the library whose text holds an example."""
    return [
        ".".join(path.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__")
        for path in files("src/millstream/*.py")
        if ">>> " in path.read_text(encoding="utf-8")
    ]


@pytest.mark.parametrize("module", modules())
def test_the_examples_of_a_module_run(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    failed, tried = doctest.testmod(importlib.import_module(module), optionflags=doctest.ELLIPSIS)
    assert tried, f"{module} holds an example that doctest does not find"
    assert failed == 0, f"{failed} of {tried} examples in {module} failed; see the output above"
