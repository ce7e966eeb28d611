"""The tree of errors: four facts each, in one line, across processes."""

from __future__ import annotations

import ast
import inspect
import pickle
import re
from pathlib import Path

import pytest

import millstream
from millstream.primitives import errors
from millstream.primitives.errors import MillstreamError, TaskFailed

SOURCE = Path(millstream.__file__).parent
KINDS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, MillstreamError)
]
# Where values are judged without a place: the caller knows it and says it.
PLACELESS = {"primitives"}


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_keeps_its_four_facts_and_says_them_in_one_line(kind: type[MillstreamError]):
    error = kind("it broke", where="here", expected="a whole one", next_step="mend it")
    assert (error.what, error.where, error.expected, error.next_step) == (
        "it broke",
        "here",
        "a whole one",
        "mend it",
    )
    assert str(error) == "it broke; where: here; expected: a whole one; next: mend it"


def test_facts_that_are_missing_are_not_named():
    assert str(MillstreamError("it broke")) == "it broke"
    assert str(MillstreamError("it broke", expected="x")) == "it broke; expected: x"


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_crosses_processes_with_its_fields(kind: type[MillstreamError]):
    error = kind("it broke", where="here", expected="x", next_step="y")
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is kind
    assert vars(back) == vars(error)
    assert str(back) == str(error)


def test_fields_that_were_added_cross_processes_too():
    error = TaskFailed("it broke")
    error.task_id = "a-1"
    assert pickle.loads(pickle.dumps(error)).task_id == "a-1"


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes():
    drawn: list[tuple[str, str]] = []
    branch: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"^    ([│├└─ ]*)([A-Z]\w+)", line)
        if found:
            del branch[len(found[1]) // 4 :]
            branch.append(found[2])
            drawn.append((found[2], branch[-2] if len(branch) > 1 else "Exception"))
    assert sorted(drawn) == sorted((kind.__name__, kind.__bases__[0].__name__) for kind in KINDS)


def calls_of_errors() -> list[tuple[Path, ast.Call]]:
    """Every place in the store, the log and the composition root where one of our errors is made."""
    names = {kind.__name__ for kind in KINDS}
    folders = [SOURCE / name for name in ("primitives", "store", "log", "engines")]
    paths = [path for folder in folders for path in folder.rglob("*.py")] + [SOURCE / "app.py"]
    return [
        (path.relative_to(SOURCE), node)
        for path in sorted(paths)
        if not re.match(r"(flow|task|worker|stream|batch)", path.name)
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names
    ]


def test_every_error_of_store_and_log_says_where_what_was_expected_and_what_to_do_next():
    silent = []
    for path, call in calls_of_errors():
        given = {keyword.arg for keyword in call.keywords}
        wanted = {"where", "expected", "next_step"}
        if path.parts[0] in PLACELESS:
            wanted.remove("where")
        if wanted - given:
            silent.append(f"{path}:{call.lineno} without {sorted(wanted - given)}")
    assert not silent, "\n".join(silent)
