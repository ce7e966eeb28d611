"""What the docs tests read in a page: fenced blocks, headings and links."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^(?P<indent> *)(?P<marks>`{3,}|~{3,})(?P<info>.*)$")
_HEADING = re.compile(r"^(#{1,6}) +(.*?)\s*#*$")
_LINK = re.compile(r"\[[^\]\n]*\]\(<?([^)\s>]+)>?(?: \"[^\"]*\")?\)")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its language, the words after it, its text, and the line its text begins on."""

    language: str
    words: tuple[str, ...]
    text: str
    line: int


@dataclass(frozen=True, slots=True)
class Section:
    """A heading with the text below it, up to the next heading of its own level or above."""

    title: str
    level: int
    text: str


def split(path: Path) -> tuple[list[Block], list[str]]:
    """Take a page apart into its fenced blocks and its prose, where a block leaves empty lines."""
    blocks: list[Block] = []
    prose: list[str] = []
    opening: re.Match[str] | None = None
    begin, body = 0, []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        fence = _FENCE.match(line)
        prose.append("" if opening or fence else line)
        if opening is None:
            if fence:
                opening, begin, body = fence, number + 1, []
        elif fence and fence["marks"].startswith(opening["marks"]) and not fence["info"].strip():
            language, *words = opening["info"].split() or [""]
            blocks.append(Block(language, tuple(words), "\n".join(body) + "\n", begin))
            opening = None
        else:
            body.append(line.removeprefix(opening["indent"]))
    if opening is not None:
        raise ValueError(f"{path.name}:{begin - 1}: this fence is never closed")
    return blocks, prose


def sections(path: Path) -> list[Section]:
    """Every heading of a page with its text, code included."""
    lines = path.read_text(encoding="utf-8").splitlines()
    _, prose = split(path)
    heads = [
        (number, found) for number, line in enumerate(prose) if (found := _HEADING.match(line))
    ]
    result = []
    for index, (number, found) in enumerate(heads):
        level = len(found[1])
        later = (at for at, head in heads[index + 1 :] if len(head[1]) <= level)
        result.append(Section(found[2], level, "\n".join(lines[number : next(later, len(lines))])))
    return result


def anchors(path: Path) -> set[str]:
    """The anchors that a forge makes of the headings of a page."""
    seen: dict[str, int] = {}
    found = set()
    for section in sections(path):
        plain = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", section.title)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).strip().replace(" ", "-")
        count = seen.get(slug, 0)
        seen[slug] = count + 1
        found.add(f"{slug}-{count}" if count else slug)
    return found


def links(path: Path) -> list[tuple[int, str]]:
    """Every link target of the prose with its line."""
    _, prose = split(path)
    plain = (re.sub(r"`[^`]*`", "", line) for line in prose)
    return [
        (number, target)
        for number, line in enumerate(plain, start=1)
        for target in _LINK.findall(line)
    ]
