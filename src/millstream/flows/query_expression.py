"""What expressions of SQL mean in a flow: each becomes an expression of ours, and so means the same everywhere.

    SQL                                     expression
    a + b, a - b, a * b, a / b, -a          the same; / gives a float, x / 0 is null
    a // b, a % b                           round down, as Python does
    =, <>, <, <=, >, >=                     ==, !=, <, <=, >, >=
    AND, OR, NOT                            &, |, ~
    a || b                                  a + b
    a IN (x, y), a BETWEEN x AND y          a == x | a == y; a >= x & a <= y
    a IS NULL, a IS TRUE                    a.is_null(), a.fill_null(False)
    a IS [NOT] DISTINCT FROM b              equal, and null equals null
    a LIKE 'x%', a ILIKE 'x%'               a.str.like("x%"), in lower case
    CASE, IF, NULLIF, COALESCE              when, when, when, fill_null
    CAST(a AS type), a::type                a.cast(type)
    TIMESTAMP '…', DATE '…', INTERVAL '…'   literals; a time without a zone is UTC
    UPPER, LOWER, LENGTH, ABS, …            functions of the same meaning

What is not in this list is refused: nothing is passed on to an engine unseen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import reduce
from typing import Any, Final, NoReturn

import pyarrow as pa

from millstream.flows.expression import (
    Binary,
    Call,
    Column,
    Conditional,
    Expression,
    FillNull,
    Literal,
    lit,
)
from millstream.flows.kinds import BINARY, BOOLEAN, DATE, FLOAT, INTEGER, TEXT, LiteralValue
from millstream.flows.query_syntax import Node, name_of, parts, refuse, shown
from millstream.primitives.errors import PlanError
from millstream.primitives.schema import TIMESTAMP

_OPERATORS: Final = {
    "add": "add", "sub": "sub", "mul": "mul", "div": "div", "intdiv": "floordiv", "mod": "mod", "dpipe": "add",
    "eq": "eq", "neq": "ne", "lt": "lt", "lte": "le", "gt": "gt", "gte": "ge",
}  # fmt: skip
_FUNCTIONS: Final = {
    "lower": "lower", "upper": "upper", "length": "length", "abs": "abs", "isnan": "is_nan", "year": "year",
    "month": "month", "day": "day", "dayofmonth": "day", "hour": "hour", "dayofweekiso": "weekday",
}  # fmt: skip
_EXTRACTED: Final = {
    "YEAR": "year", "MONTH": "month", "DAY": "day", "HOUR": "hour", "ISODOW": "weekday", "DAYOFWEEK_ISO": "weekday",
}  # fmt: skip
_KINDS: Final[dict[str, pa.DataType]] = {
    "TINYINT": INTEGER, "SMALLINT": INTEGER, "INT": INTEGER, "BIGINT": INTEGER,
    "FLOAT": FLOAT, "DOUBLE": FLOAT, "TEXT": TEXT, "VARCHAR": TEXT, "BOOLEAN": BOOLEAN, "DATE": DATE,
    "TIMESTAMP": TIMESTAMP, "TIMESTAMPNTZ": TIMESTAMP, "TIMESTAMPTZ": TIMESTAMP, "BLOB": BINARY, "VARBINARY": BINARY,
}  # fmt: skip
_PREDICATES: Final = (
    "eq", "neq", "lt", "lte", "gt", "gte", "nullsafeeq", "nullsafeneq", "not", "is", "in", "between", "like", "ilike",
    "escape",
)  # fmt: skip
_UNITS: Final = {
    "MICROSECOND": timedelta(microseconds=1),
    "MILLISECOND": timedelta(milliseconds=1),
    "SECOND": timedelta(seconds=1),
    "MINUTE": timedelta(minutes=1),
    "HOUR": timedelta(hours=1),
    "DAY": timedelta(days=1),
    "WEEK": timedelta(weeks=1),
}
_TRUNCATED: Final = ("MICROSECOND", "MILLISECOND", "SECOND", "MINUTE", "HOUR", "DAY")
AGGREGATES: Final = (
    "count", "countif", "sum", "avg", "min", "max", "median", "stddev", "stddevsamp", "stddevpop", "variance",
    "variancepop", "quantile", "approxdistinct", "argmin", "argmax",
)  # fmt: skip
NESTING_MAX: Final = 100
"""How many operations may be inside each other: what compiles expressions is recursive."""
OPERATIONS_MAX: Final = 10_000
"""How many operations, columns and values one expression may have, each counted as often as it is used."""
KNOWN: Final = (
    "ABS, COALESCE, CONTAINS, DATE_TRUNC, EXTRACT, HOUR, IF, IFNULL, ISNAN, LENGTH, LOWER, MONTH, DAY, NULLIF, "
    "STARTS_WITH, UPPER, YEAR"
)


class Translator:
    """Turns nodes into expressions over the columns of one step's input.

    ``tables`` are the names by which the input may be called, ``parameters`` the values of ``:name``.
    """

    def __init__(
        self, tables: Sequence[str], parameters: Mapping[str, LiteralValue], where: str
    ) -> None:
        self.tables = tables
        self.parameters = parameters
        self.where = where
        self._depth = 0

    def expression(self, node: Node) -> Expression:
        """Return what a node means. Raises PlanError for what has no meaning in a flow."""
        if self._depth == NESTING_MAX:
            raise PlanError(
                "the query is nested too deeply",
                where=self.where,
                expected=f"{NESTING_MAX} operations inside each other at most; AND, OR and IN may be longer",
                next_step="compute a part in a step before",
            )
        self._depth += 1
        try:
            found = self._meaning(node)
        finally:
            self._depth -= 1
        # CASE, BETWEEN and others use an operand more than once, so a short text can mean a long expression.
        if self._depth == 0 and _is_longer(found, OPERATIONS_MAX):
            raise PlanError(
                "the query asks for too many operations in one expression",
                where=self.where,
                expected=f"{OPERATIONS_MAX} operations at most",
                next_step='compute a part in a step before; for a long list of values, join(values, how="semi")',
            )
        return found

    def _meaning(self, node: Node) -> Expression:
        key = node.key
        if key in _OPERATORS:
            left, right = (self.operand(side) for side in self.parts(node, "this", "expression"))
            return Binary(_OPERATORS[key], left, right)
        if key in ("and", "or"):
            operands = [self.expression(operand) for operand in chained(node, key)]
            return balanced(key, operands)
        if key in _FUNCTIONS:
            (operand,) = self.parts(node, "this")
            return Call(_FUNCTIONS[key], self.expression(operand))
        method = _MEANINGS.get(key)
        if method is None:
            self.refuse_unknown(node)
        return method(self, node)

    def operand(self, node: Node) -> Expression:
        """Return what an operand means. Databases disagree on what ``a = b IS NULL`` is, so that is refused.

        The parser puts brackets of its own around IS and NOT, so there only a second pair is the user's.
        """
        inner = node.args["this"] if node.key == "paren" else None
        if node.key in _PREDICATES or (inner is not None and inner.key in ("is", "not")):
            refuse(
                node,
                "a comparison inside another one",
                where=self.where,
                expected="brackets that say what belongs together; two pairs around IS and NOT",
                next_step="add the brackets, or compute a part in a step before",
            )
        return self.expression(node)

    def parts(self, node: Node, *names: str) -> tuple[Any, ...]:
        """Return parts of a node, of which there must be no others."""
        return parts(node, *names, where=self.where)

    def literal(self, value: LiteralValue, node: Node) -> Expression:
        """Return a value for every row."""
        try:
            return lit(value)
        except PlanError as error:
            refuse(
                node,
                error.what,
                where=self.where,
                expected=error.expected or "a value",
                next_step=error.next_step or "give another value",
            )

    def refuse_unknown(self, node: Node) -> NoReturn:
        """Raise PlanError for a node without a meaning, with the way around it."""
        if node.key in (*AGGREGATES, "filter"):
            refuse(
                node,
                "an aggregate has no meaning here",
                where=self.where,
                expected="aggregates in SELECT, HAVING and ORDER BY",
                next_step="to filter groups, write HAVING",
            )
        if node.key == "window":
            refuse(
                node,
                "functions of windows of rows are no part of the steps in SQL",
                where=self.where,
                expected="functions of one row, or aggregates with GROUP BY",
                next_step="use .window().agg, .key_by().process for what remembers rows before, or map_batches",
            )
        if node.key in ("subquery", "exists", "select"):
            refuse(
                node,
                "a query inside the query",
                where=self.where,
                expected="one SELECT over the rows of the flow",
                next_step='chain two steps: .sql("…").sql("…"), or join() flows and tables',
            )
        refuse(
            node,
            "flows have no such function or operator",
            where=self.where,
            expected=f"operators, CASE, CAST, LIKE, IN, BETWEEN, IS, and {KNOWN}",
        )


def _is_longer(expression: Expression, operations: int) -> bool:
    rest = [expression]
    for _ in range(operations):
        if not rest:
            return False
        rest += rest.pop().children()
    return bool(rest)


def chained(node: Node, key: str) -> list[Node]:
    """Return the operands of ``a AND b AND c``, however long, without recursion."""
    found: list[Node] = []
    rest = [node]
    while rest:
        here = rest.pop()
        if here.key == key:
            rest += [here.args["expression"], here.args["this"]]
        else:
            found.append(here)
    return found


def balanced(operator: str, operands: Sequence[Expression]) -> Expression:
    """Return the operands joined by an associative operator, as flat as a tree can be."""
    if len(operands) == 1:
        return operands[0]
    middle = len(operands) // 2
    return Binary(
        operator, balanced(operator, operands[:middle]), balanced(operator, operands[middle:])
    )


def _column(of: Translator, node: Node) -> Expression:
    this, table = of.parts(node, "this", "table")
    name = name_of(this)
    if name is None or (table is not None and name_of(table) not in of.tables):
        refuse(
            node,
            "no such column or table",
            where=of.where,
            expected=f"a column, or one of {' or '.join(of.tables)}",
        )
    return Column(name)


def _value(of: Translator, node: Node) -> Expression:
    text, is_text = of.parts(node, "this", "is_string")
    if is_text:
        return of.literal(text, node)
    return of.literal(_number(text), node)


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def _negative(of: Translator, node: Node) -> Expression:
    (operand,) = of.parts(node, "this")
    if operand.key == "literal" and not operand.args.get("is_string"):
        # The least integer has no positive counterpart in 64 bits.
        return of.literal(-_number(operand.args["this"]), node)
    return Call("neg", of.expression(operand))


def _parameter(of: Translator, node: Node) -> Expression:
    (name,) = of.parts(node, "this")
    if name not in of.parameters:
        given = ", ".join(of.parameters) or "none"
        refuse(
            node,
            "no such parameter",
            where=of.where,
            expected=f"one of those given: {given}",
            next_step='write sql("… :least …", parameters={"least": 3})',
        )
    return of.literal(of.parameters[name], node)


def _is(of: Translator, node: Node) -> Expression:
    left, right = of.parts(node, "this", "expression")
    operand = of.operand(left)
    if right.key == "null":
        return operand.is_null()
    if right.key == "boolean":
        truth = operand if right.args["this"] else ~operand
        return truth.fill_null(False)
    of.refuse_unknown(node)


def _same(of: Translator, node: Node) -> Expression:
    left, right = (of.operand(side) for side in of.parts(node, "this", "expression"))
    nulls = left.is_null() | right.is_null()
    both = left.is_null() & right.is_null()
    same = Conditional(((nulls, both),), Binary("eq", left, right))
    return same if node.key == "nullsafeeq" else ~same


def _among(of: Translator, node: Node) -> Expression:
    this, values, query = of.parts(node, "this", "expressions", "query")
    if query is not None or not values:
        of.refuse_unknown(node if query is None else query)
    operand = of.operand(this)
    return balanced("or", [Binary("eq", operand, of.expression(value)) for value in values])


def _between(of: Translator, node: Node) -> Expression:
    this, low, high = of.parts(node, "this", "low", "high")
    operand = of.operand(this)
    return (operand >= of.operand(low)) & (operand <= of.operand(high))


def _case(of: Translator, node: Node) -> Expression:
    this, branches, default = of.parts(node, "this", "ifs", "default")
    operand = None if this is None else of.expression(this)
    pairs = []
    for branch in branches:
        condition, value = of.parts(branch, "this", "true")
        tested = of.expression(condition)
        truth = tested if operand is None else Binary("eq", operand, tested)
        pairs.append((truth, of.expression(value)))
    otherwise = Literal(None) if default is None else of.expression(default)
    return Conditional(tuple(pairs), otherwise)


def _if(of: Translator, node: Node) -> Expression:
    condition, yes, no = of.parts(node, "this", "true", "false")
    otherwise = Literal(None) if no is None else of.expression(no)
    return Conditional(((of.expression(condition), of.expression(yes)),), otherwise)


def _null_if(of: Translator, node: Node) -> Expression:
    left, right = (of.expression(side) for side in of.parts(node, "this", "expression"))
    return Conditional(((Binary("eq", left, right), Literal(None)),), left)


def _coalesce(of: Translator, node: Node) -> Expression:
    first, others = of.parts(node, "this", "expressions")
    values = [of.expression(value) for value in (first, *(others or ()))]
    return reduce(FillNull, values)


def _cast(of: Translator, node: Node) -> Expression:
    this, to = of.parts(node, "this", "to")
    name = str(getattr(to.args.get("this"), "value", None))
    kind = _KINDS.get(name)
    if kind is None or to.args.get("expressions"):
        refuse(
            node,
            f"{shown(to)} is no type of a flow",
            where=of.where,
            expected="BIGINT, DOUBLE, VARCHAR, BOOLEAN, DATE, TIMESTAMP or BLOB",
        )
    if this.key == "literal" and this.args.get("is_string") and kind in (TIMESTAMP, DATE):
        return of.literal(_moment(of, node, this.args["this"], kind), node)
    return of.expression(this).cast(kind)


def _moment(of: Translator, node: Node, text: str, kind: pa.DataType) -> datetime | date:
    try:
        if kind == DATE:
            return date.fromisoformat(text)
        moment = datetime.fromisoformat(text)
    except ValueError:
        refuse(
            node,
            "no such time",
            where=of.where,
            expected="ISO 8601 such as '2026-01-31' or '2026-01-31 12:00:00+01:00'",
            next_step="correct the text",
        )
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _interval(of: Translator, node: Node) -> Expression:
    this, unit = of.parts(node, "this", "unit")
    of_unit = _UNITS.get(str(name_of(unit)).upper().rstrip("S"))
    try:
        number = int(this.args["this"])
    except (AttributeError, KeyError, TypeError, ValueError):
        number = None
    if of_unit is None or number is None:
        refuse(
            node,
            "no duration",
            where=of.where,
            expected="a whole number of MICROSECOND, MILLISECOND, SECOND, MINUTE, HOUR, DAY or WEEK",
            next_step="months and years have no fixed length: compare YEAR(…) and MONTH(…)",
        )
    return of.literal(number * of_unit, node)


def _extract(of: Translator, node: Node) -> Expression:
    what, operand = of.parts(node, "this", "expression")
    function = _EXTRACTED.get(str(name_of(what)).upper())
    if function is None:
        of.refuse_unknown(node)
    return Call(function, of.expression(operand))


def _truncate(of: Translator, node: Node) -> Expression:
    this, unit = of.parts(node, "this", "unit")
    name = str(name_of(unit)).upper()
    if name not in _TRUNCATED:
        refuse(
            node,
            f"a time is not truncated to {name}",
            where=of.where,
            expected=", ".join(_TRUNCATED),
            next_step="for weeks, months and years group by windows: ms.calendar(…)",
        )
    return of.expression(this).dt.truncate(_UNITS[name])


def _like(of: Translator, node: Node, escape: str | None = None) -> Expression:
    this, pattern, negated = of.parts(node, "this", "expression", "negate")
    operand, like = of.operand(this), of.operand(pattern)
    if not isinstance(like, Literal) or not isinstance(like.value, str):
        refuse(node, "the pattern is not one text", where=of.where, expected="LIKE '…'")
    if escape is not None and (len(escape) != 1 or (node.key == "ilike" and escape.isalpha())):
        refuse(
            node, "no such ESCAPE", where=of.where, expected="one character, for ILIKE no letter"
        )
    lower = node.key == "ilike"
    told = operand.str.lower() if lower else operand
    found = told.str.like(like.value.lower() if lower else like.value, escape=escape)
    return ~found if negated else found


def _escaped(of: Translator, node: Node) -> Expression:
    like, escape = of.parts(node, "this", "expression")
    if like.key not in ("like", "ilike") or escape.key != "literal":
        of.refuse_unknown(node)
    return _like(of, like, escape.args["this"])


def _text_function(of: Translator, node: Node) -> Expression:
    this, part = of.parts(node, "this", "expression")
    operand, searched = of.expression(this), of.expression(part)
    if not isinstance(searched, Literal) or not isinstance(searched.value, str):
        refuse(node, "what is looked for is not one text", where=of.where, expected="'…'")
    name = "starts_with" if node.key == "startswith" else "contains"
    return Call(name, operand, (searched.value,))


_MEANINGS: dict[str, Callable[[Translator, Node], Expression]] = {
    "paren": lambda of, node: of.expression(*of.parts(node, "this")),
    "not": lambda of, node: ~of.expression(*of.parts(node, "this")),
    "null": lambda of, node: Literal(None),
    "boolean": lambda of, node: Literal(bool(*of.parts(node, "this"))),
    "column": _column,
    "literal": _value,
    "neg": _negative,
    "placeholder": _parameter,
    "is": _is,
    "nullsafeeq": _same,
    "nullsafeneq": _same,
    "in": _among,
    "between": _between,
    "case": _case,
    "if": _if,
    "nullif": _null_if,
    "coalesce": _coalesce,
    "cast": _cast,
    "interval": _interval,
    "extract": _extract,
    "timestamptrunc": _truncate,
    "datetrunc": _truncate,
    "like": _like,
    "ilike": _like,
    "escape": _escaped,
    "startswith": _text_function,
    "contains": _text_function,
}
