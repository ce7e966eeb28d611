"""The shape of the code: how long, how named, what is never written, one SQL statement a file."""

from __future__ import annotations

import ast
import re
import sqlite3
from pathlib import Path

import pytest

from millstream.store.catalog import format_version
from tests.architecture.tree import ROOT, SOURCE, files, name, report

FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70
FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "helper", "manager", "misc"}
CLOCK = SOURCE / "primitives" / "clock.py"
LOCKS = ROOT / "requirements"
SQL = SOURCE / "store" / "sql"

# Written in two parts, so that this file keeps its own rules.
MARKS = re.compile(r"\b(TO" r"DO|FIX" r"ME|X" r"XX|HA" r"CK)\b")
SLEEP = re.compile(r"\btime\.sl" r"eep\(|\bfrom time import .*\bsleep\b")
IGNORE = re.compile(r"# type: ig" r"nore(\[[\w, -]+\])?(.*)")
MACHINE = re.compile(
    r"""(?<![\w.~$}*-])/(root|work|tmp|home|Users|opt|private|mnt)/\w|[A-Z]:\\Users"""
)
HOSTS = re.compile(
    r"py"
    r"pi\.org|python"
    r"hosted|pypi\.python|registry\.npm|crates\.io|deb\.debian|proxy\.golang|repo\d?\.maven",
)


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def lines_matching(pattern: re.Pattern[str], paths: list[Path]) -> list[str]:
    return [
        f"{name(path)}:{number}: {line.strip()[:120]}"
        for path in paths
        for number, line in enumerate(text_of(path).splitlines(), start=1)
        if pattern.search(line)
    ]


def python() -> list[Path]:
    return list(files("*.py"))


def texts() -> list[Path]:
    """All that people wrote: everything but the lock files, which test_locks.py reads."""
    return [path for path in files() if path.parent != LOCKS]


def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.parse(text_of(path))
    return [
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


# ---- length and names ---------------------------------------------------------------------------


def test_no_file_is_too_long():
    counted = [
        (path, len(text_of(path).splitlines())) for path in files("*.py", "*.sql", "Makefile")
    ]
    long = [f"{name(path)}: {lines} lines" for path, lines in counted if lines > FILE_LINES_MAX]
    report(f"A file stops at {FILE_LINES_MAX} lines:", long)


def test_no_function_is_too_long():
    long = [
        f"{name(path)}:{function.lineno} {function.name}: {lines} lines"
        for path in python()
        for function in functions(path)
        if (lines := (function.end_lineno or 0) - function.lineno + 1) > FUNCTION_LINES_MAX
    ]
    report(f"A function stops at {FUNCTION_LINES_MAX} lines:", long)


def test_every_name_says_what_is_in_it():
    # A word at either end counts too: log_utils is utils.
    vague = [
        name(path)
        for path in python()
        if any(
            FORBIDDEN_NAMES & set(part.removesuffix(".py").split("_"))
            for part in path.relative_to(ROOT).parts
        )
    ]
    report(f"These names say nothing ({', '.join(sorted(FORBIDDEN_NAMES))}):", vague)


def test_every_module_has_a_docstring():
    silent = [name(path) for path in python() if not ast.get_docstring(ast.parse(text_of(path)))]
    report("A module opens with what it is:", silent)


def test_every_folder_of_modules_is_a_package():
    # Otherwise two tests with one name hide each other, and import-linter does not see the folder.
    folders = {path.parent for path in files("src/*.py", "tests/*.py", "benchmarks/*.py")}
    missing = [name(folder) for folder in sorted(folders) if not (folder / "__init__.py").is_file()]
    report("These folders have no __init__.py:", missing)


# ---- what is never written ----------------------------------------------------------------------


def test_nothing_is_left_for_later():
    report("Finish it, or describe the limit in the docs:", lines_matching(MARKS, texts()))


def test_nothing_sleeps():
    paths = [path for path in python() if path != CLOCK]
    report("Wait on a Clock or for a signal:", lines_matching(SLEEP, paths))


def test_every_ignored_type_error_has_a_code_and_a_reason():
    # In a test the reason is the test: it hands over what the types forbid. The code says which.
    breaches = [
        f"{name(path)}:{number}: {line.strip()[:120]}"
        for path in python()
        for number, line in enumerate(text_of(path).splitlines(), start=1)
        if (found := IGNORE.search(line))
        if not found.group(1) or (SOURCE in path.parents and len(found.group(2).strip(" #-:")) < 10)
    ]
    report("Write `# type: ignore[code]  # why the checker is wrong here`:", breaches)


def test_no_path_of_one_machine_is_written_down():
    report("These paths exist on one machine only:", lines_matching(MACHINE, texts()))


def test_no_registry_is_named():
    # Where packages come from is the reader's choice: mirrors, proxies, a folder of wheels.
    report(
        "A registry's host is configured outside the project:", lines_matching(HOSTS, list(files()))
    )


def test_no_binary_file_is_kept():
    breaches = []
    for path in files():
        content = path.read_bytes()
        try:
            content.decode("utf-8")
        except UnicodeDecodeError:
            breaches.append(f"{name(path)}: not UTF-8 text")
        else:
            if b"\0" in content:
                breaches.append(f"{name(path)}: holds a zero byte")
    report("A binary file cannot be reviewed; build it in the test that needs it:", breaches)


def test_every_text_ends_in_one_line_end():
    crooked = [
        name(path)
        for path in files()
        if (content := path.read_bytes())
        and (not content.endswith(b"\n") or content.endswith(b"\n\n"))
    ]
    report("A text ends in exactly one line end:", crooked)


# ---- SQL ----------------------------------------------------------------------------------------


def statements(text: str) -> list[str]:
    """Split at every semicolon where SQLite's own tokenizer says that a statement is complete."""
    found, rest = [], ""
    for part in re.split(r"(?<=;)", text):
        rest += part
        if sqlite3.complete_statement(rest):
            found.append(rest)
            rest = ""
    without_comments = re.sub(r"--[^\n]*|/\*.*?\*/", "", rest, flags=re.DOTALL)
    return [*found, rest] if without_comments.strip() else found


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("SELECT 1", 1),
        ("-- one; two\nSELECT ';' ;\n", 1),
        ("SELECT 1; SELECT 2", 2),
        ("SELECT 1;\n-- the end\n", 1),
        ("-- nothing\n", 0),
    ],
)
def test_statements_are_counted_as_sqlite_counts_them(text: str, count: int):
    assert len(statements(text)) == count


def sql_names() -> set[str]:
    return {
        path.relative_to(SQL).with_suffix("").as_posix() for path in files(f"{name(SQL)}/*.sql")
    }


def literals(path: Path) -> set[str]:
    tree = ast.parse(text_of(path))
    return {
        n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)
    }


def test_a_sql_file_holds_one_statement():
    breaches = [
        f"{name(path)}: {count} statements"
        for path in files(f"{name(SQL)}/*.sql")
        if (count := len(statements(text_of(path)))) != 1
    ]
    report("One statement a file:", breaches)


def test_sql_lives_in_sql_files():
    stray = [
        name(path)
        for path in files("src/*.sql")
        if SQL not in path.parents and path.parent.name != "migrations"
    ]
    report("Statements live in store/sql and the schema in store/migrations:", stray)


def test_every_statement_is_used():
    used = set().union(*(literals(path) for path in files("src/*.py")))
    report("No module names these statements in full:", sorted(sql_names() - used))


def test_every_statement_that_is_run_exists():
    breaches = [
        f"{name(path)}:{call.lineno}: {call.args[0].value}"
        for path in files("src/*.py")
        for call in ast.walk(ast.parse(text_of(path)))
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.args
        if call.func.attr in {"run", "many"}
        if isinstance(call.args[0], ast.Constant) and isinstance(call.args[0].value, str)
        if re.fullmatch(r"\w+/\w+", call.args[0].value) and call.args[0].value not in sql_names()
    ]
    report("There is no such file below store/sql:", breaches)


def test_migrations_are_numbered_without_a_gap():
    numbers = [
        int(path.name.partition("_")[0]) for path in files("src/millstream/store/migrations/*.sql")
    ]
    assert numbers == list(range(1, len(numbers) + 1)), f"migrations are numbered {numbers}"


def test_the_specification_is_of_the_format_that_is_written():
    heading = (SOURCE / "store" / "FORMAT.md").read_text("utf-8").splitlines()[0]
    assert heading == f"# The format of a store, version {format_version()}"
