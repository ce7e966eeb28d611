"""The grammar of steps written in SQL: a text becomes one SELECT, as the parser of sqlglot sees it.

sqlglot is the extra ``millstream[sql]``, imported when the first such step is built. It only parses: what a tree means
is decided in ``query.py`` and ``query_expression.py``, which see no more of it than ``Node``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar, Final, NoReturn, Protocol, cast

from millstream.primitives.errors import ConfigurationError, PlanError

_HARMLESS = frozenset(("big_int", "nested", "quoted", "safe", "typed"))
"""What the parser notes of its own accord, about other databases than ours."""

_INSTEAD: Final = {
    "joins": "join flows and tables with join(), join_interval() or join_window()",
    "with_": 'chain two steps: .sql("…").sql("…")',
    "qualify": "use .window().agg, .key_by().process for what remembers rows before, or map_batches",
    "on": "use .group_by(…).agg(…) with ms.first or ms.last",
}


class Node(Protocol):
    """A node of the tree: ``key`` is its kind in lower case, ``args`` its parts by name."""

    @property
    def key(self) -> str:
        """Return what it is, such as ``"select"`` or ``"add"``."""

    @property
    def args(self) -> Mapping[str, Any]:
        """Return the parts: nodes, lists of nodes, texts, or None."""

    def sql(self, *, comments: bool, unsupported_level: object) -> str:
        """Return the node as text."""


def parsed(query: object, *, where: str) -> Node:
    """Return the SELECT that a text holds. Raises PlanError naming the place of what is no SQL.

    Names and texts are as in the SQL standard: ``"name"`` is a column, ``'text'`` a text. Without ``NULLS FIRST`` or
    ``NULLS LAST`` nulls are the least values, as everywhere in a flow.
    """
    if not isinstance(query, str) or not query.strip():
        raise PlanError(
            f"sql({query!r})",
            where=where,
            expected="a query in a text",
            next_step='write for example sql("SELECT * FROM self WHERE value > 3")',
        )
    sqlglot, dialect = _parser(where)
    try:
        trees = [tree for tree in sqlglot.parse(query, dialect=dialect) if tree is not None]
    except sqlglot.errors.SqlglotError as error:
        raise PlanError(
            f"this is no SQL: {_first_mistake(error)}",
            where=where,
            expected="one query: SELECT … FROM self …",
            next_step="correct the query there",
        ) from error
    except RecursionError as error:
        raise PlanError(
            "the query is nested too deeply to be read",
            where=where,
            expected="an expression of some hundred operations at most",
            next_step="compute it in several steps",
        ) from error
    if len(trees) != 1 or trees[0].key != "select":
        kind = "SELECT" if trees and trees[0].key == "select" else "statement"
        raise PlanError(
            f"there is not one SELECT here, but {len(trees)} of the kind {trees[0].key.upper()}"
            if trees and kind == "statement"
            else f"there are {len(trees)} queries here",
            where=where,
            expected="one query: SELECT … FROM self …",
            next_step="a step reads rows and gives rows; to store them, end the flow with write",
        )
    return cast("Node", trees[0])


def parts(node: Node, *names: str, where: str) -> tuple[Any, ...]:
    """Return parts of a node. Raises PlanError if it has others, whose meaning would be lost."""
    strange = [
        name
        for name, value in node.args.items()
        if name not in names and name not in _HARMLESS and value not in (None, False, [])
    ]
    if strange:
        name = strange[0]
        next_step = _INSTEAD.get(name, "write that part with the other steps of flows")
        refuse(
            node,
            f"{name.rstrip('_').removesuffix('s').upper()} is no part of a step in SQL",
            where=where,
            next_step=next_step,
        )
    return tuple(node.args.get(name) for name in names)


def refuse(
    node: Node,
    what: str,
    *,
    where: str,
    expected: str = "SELECT … FROM self WHERE … GROUP BY … HAVING … ORDER BY … LIMIT …, of what expressions can say",
    next_step: str = "write that part with the other steps of flows, or in map_batches",
) -> NoReturn:
    """Raise PlanError about a part of the query, which is shown."""
    raise PlanError(f"{shown(node)}: {what}", where=where, expected=expected, next_step=next_step)


def shown(node: Node) -> str:
    """Return a node as text, cut to what fits into a message."""
    from sqlglot import ErrorLevel

    text = node.sql(comments=False, unsupported_level=ErrorLevel.IGNORE)
    return text if len(text) <= 80 else f"{text[:79]}…"


def name_of(node: Node | str | None) -> str | None:
    """Return the name that an identifier or a text is; None for what has none."""
    while node is not None and not isinstance(node, str):
        node = node.args.get("this")
    return node


@cache
def _dialect() -> type[object]:
    """Return our dialect: the parser's own, which follows no database, with ``//`` for divisions that round down."""
    from sqlglot.dialects.dialect import Dialect
    from sqlglot.tokens import Tokenizer

    class Signs(Tokenizer):
        KEYWORDS: ClassVar = {**Tokenizer.KEYWORDS, "//": Tokenizer.KEYWORDS["DIV"]}

    return type("Millstream", (Dialect,), {"Tokenizer": Signs})


def _parser(where: str) -> tuple[Any, type[object]]:
    try:
        import sqlglot
        import sqlglot.errors
    except ImportError as error:
        raise ConfigurationError(
            "the parser of SQL is not installed",
            where=where,
            expected="sqlglot",
            next_step="pip install millstream[sql]",
        ) from error
    return sqlglot, _dialect()


def _first_mistake(error: Exception) -> str:
    found = getattr(error, "errors", None)
    if not found:
        return str(error).splitlines()[0]
    first = found[0]
    return f"{first['description']}, at {first['highlight']!r} in line {first['line']}, column {first['col']}"
