"""The docs keep up: every name is described, every example runs, every link leads somewhere.

In README.md, ARCHITECTURE.md and docs/ each ```python block runs, in the order of its page, and the
blocks of a page share their names, as if the reader typed them. A block that cannot run says so
after the language, ```python no-run, and the sentence beside it says why.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import click
import pytest

from millstream.cli.main import cli
from tests.architecture.markdown import Block, anchors, links, sections, split
from tests.architecture.names import ERRORS, EXPORTED
from tests.architecture.tree import ROOT, SOURCE, files, name, report

PAGES = files("*.md")
REFERENCE = files("docs/reference/*.md")
DECISIONS = files("docs/decisions/*.md")
SHELVES = {"tutorial", "how-to", "concepts", "reference", "internals", "decisions"}


def reference() -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in REFERENCE)


# ---- what has to be there -----------------------------------------------------------------------


def test_a_newcomer_finds_these_pages():
    missing = [
        page
        for page in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")
        if not (ROOT / page).is_file()
    ]
    report("These pages are missing:", missing)


def test_every_page_stands_on_a_shelf():
    stray = [
        name(path) for path in files("docs/*.md") if path.relative_to(ROOT).parts[1] not in SHELVES
    ]
    report(f"A page belongs to one of {', '.join(sorted(SHELVES))}:", stray)


def test_the_readme_names_both_commands():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    report(
        "README.md does not say:",
        [words for words in ("make demo", "make test") if words not in text],
    )


def test_the_architecture_names_every_folder():
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    folders = {
        path.parent.relative_to(SOURCE).as_posix() for path in files("src/millstream/*.py")
    } - {"."}
    report(
        "ARCHITECTURE.md does not show:",
        [folder for folder in sorted(folders) if folder.rpartition("/")[2] + "/" not in text],
    )


# ---- everything is described --------------------------------------------------------------------


def options(command: click.Command) -> list[click.Option]:
    """The options that --help shows."""
    found = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    return [option for option in found if not option.hidden]


def commands(group: click.Command, path: str) -> dict[str, click.Command]:
    """Every command below this one, by the words that a person types."""
    found = {} if isinstance(group, click.Group) else {path: group}
    if isinstance(group, click.Group):
        context = click.Context(group)
        for word in group.list_commands(context):
            command = group.get_command(context, word)
            assert command is not None, f"{path} lists {word} and does not know it"
            found |= commands(command, f"{path} {word}")
    return found


COMMANDS = commands(cli, "millstream")


@pytest.mark.parametrize("words", COMMANDS)
def test_a_command_is_described(words: str):
    described = [
        section for path in REFERENCE for section in sections(path) if f"`{words}" in section.title
    ]
    assert described, f"no heading in docs/reference names `{words}`"
    text = "\n".join(section.text for section in described)
    command = COMMANDS[words]
    known = {word for option in options(command) for word in (*option.opts, *option.secondary_opts)}
    arguments = {
        parameter.make_metavar(click.Context(command)).strip("[].")
        for parameter in command.params
        if isinstance(parameter, click.Argument)
    }
    missing = [
        word
        for word in sorted(known | arguments)
        if not re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text)
    ]
    report(f"The section of `{words}` does not name:", missing)
    stale = [
        word
        for word in sorted(set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text)))
        if word not in known | {"--help"}
    ]
    report(f"`{words}` has no such option:", stale)


@pytest.mark.parametrize("words", COMMANDS)
def test_a_command_explains_itself(words: str):
    command = COMMANDS[words]
    silent = [option.opts[-1] for option in options(command) if not option.help]
    assert command.help, f"{words} --help says nothing"
    report(f"{words} --help does not explain:", silent)


def test_every_error_is_described():
    text = reference()
    report("docs/reference does not name:", [error for error in ERRORS if f"`{error}`" not in text])


def test_every_exported_name_is_described():
    text = reference()
    missing = [key for key in EXPORTED if not re.search(rf"`(ms\.)?{key}\b", text)]
    report("docs/reference does not name:", missing)


# ---- examples run -------------------------------------------------------------------------------


def runnable(path: Path) -> list[Block]:
    blocks, _ = split(path)
    return [block for block in blocks if block.language == "python" and "no-run" not in block.words]


def test_every_python_block_says_whether_it_runs():
    odd = [
        f"{name(path)}:{block.line - 1}: {block.language} {' '.join(block.words)}"
        for path in PAGES
        for block in split(path)[0]
        if (block.language == "python" and block.words not in {(), ("no-run",)})
        or block.language in {"py", "python3", "Python"}
    ]
    report("Write ```python, or ```python no-run:", odd)


@pytest.mark.parametrize("path", [path for path in PAGES if runnable(path)], ids=name)
def test_the_examples_of_a_page_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # A real module under a real name, so that tasks and dataclasses of the page can be found again.
    page = ModuleType("page_" + re.sub(r"\W", "_", name(path)))
    monkeypatch.setitem(sys.modules, page.__name__, page)
    monkeypatch.chdir(tmp_path)
    # A page may import modules that it wrote; the next one has a directory of its own, and the same "." for it.
    monkeypatch.setattr(sys, "path", [*sys.path])
    sys.path_importer_cache.pop(".", None)
    before = set(sys.modules)
    for block in runnable(path):
        # Empty lines before the block make a traceback point to the line of the page.
        code = compile("\n" * (block.line - 1) + block.text, str(path), "exec", dont_inherit=True)
        exec(code, page.__dict__)
    # What the page wrote and imported is its own: the next one may have a module of the same name.
    for module in set(sys.modules) - before:
        if Path(getattr(sys.modules[module], "__file__", None) or "/").is_relative_to(tmp_path):
            del sys.modules[module]


# ---- links and decisions ------------------------------------------------------------------------


def broken(path: Path, target: str) -> bool:
    if re.match(r"[a-z]+:", target):
        return False
    place, _, anchor = target.partition("#")
    other = (path.parent / place).resolve() if place else path
    if not other.exists() or not other.is_relative_to(ROOT):
        return True
    return bool(anchor) and other.suffix == ".md" and anchor not in anchors(other)


def test_every_link_leads_somewhere():
    breaches = [
        f"{name(path)}:{line}: {target}"
        for path in PAGES
        for line, target in links(path)
        if broken(path, target)
    ]
    report("These links lead nowhere:", breaches)


def test_every_decision_has_its_three_parts():
    breaches = []
    for path in DECISIONS:
        titles = [section.title for section in sections(path) if section.level == 2]
        if not re.fullmatch(r"\d{4}-[a-z0-9-]+\.md", path.name) or titles != [
            "Context",
            "Choice",
            "Price",
        ]:
            breaches.append(f"{name(path)}: {titles}")
    report("A decision is NNNN-title.md with Context, Choice and Price:", breaches)


def test_no_two_decisions_share_a_number():
    numbers = [path.name[:4] for path in DECISIONS]
    assert sorted(set(numbers)) == sorted(numbers)
