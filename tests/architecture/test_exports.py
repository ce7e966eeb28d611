"""What the library exports is what names.py lists, described and quiet on import."""

from __future__ import annotations

import inspect
import subprocess
import sys
from types import ModuleType

import millstream
from millstream.primitives import errors
from tests.architecture.names import ERRORS, EXPORTED


def error_classes() -> dict[str, type[Exception]]:
    """Every error that the tree defines, by name."""
    return {
        key: value
        for key, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, Exception)
    }


def test_exactly_these_names_are_exported():
    assert sorted(millstream.__all__) == EXPORTED


def test_every_exported_name_is_there():
    assert [key for key in millstream.__all__ if not hasattr(millstream, key)] == []


def test_nothing_else_looks_public():
    # What a person sees after `millstream.` in an editor is what is promised.
    public = {
        key
        for key, value in vars(millstream).items()
        if not key.startswith("_") and not isinstance(value, ModuleType)
    }
    assert sorted(public - set(EXPORTED)) == []


def test_exactly_these_errors_exist():
    assert sorted(error_classes()) == ERRORS


def test_every_error_is_one_of_ours():
    foreign = [
        key
        for key, error in error_classes().items()
        if not issubclass(error, millstream.MillstreamError)
    ]
    assert foreign == []


def test_every_error_stands_in_the_tree_that_its_module_draws():
    drawn = set((errors.__doc__ or "").split())
    assert [key for key in ERRORS if key not in drawn] == []


def test_every_exported_name_keeps_a_promise_in_its_docstring():
    silent = [key for key in EXPORTED if not inspect.getdoc(getattr(millstream, key))]
    assert silent == []


def test_importing_the_library_has_no_effect():
    # No thread, no warning and no output: a library is quiet until it is asked.
    program = (
        "import threading, millstream; assert threading.active_count() == 1, threading.enumerate()"
    )
    imported = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False
    )
    assert (imported.returncode, imported.stdout, imported.stderr) == (0, "", "")
