"""Expressions over the columns of one step: ``ms.col("price") * 2 > 10``.

An expression is a tree of frozen dataclasses. It computes nothing: each engine compiles it. The
set is small and closed, so that every expression means the same on every engine; ``map_batches``
is the door to everything else.

Because ``==`` builds an expression, expressions are compared by their ``text()``, and a truth value is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

import pyarrow as pa

from millstream.flows.kinds import LiteralValue, kind_named, literal_kind, literal_text
from millstream.primitives.duration import Duration, duration_us
from millstream.primitives.errors import PlanError

BINARY_SIGNS = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "floordiv": "//", "mod": "%",
    "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=",
    "and": "&", "or": "|",
}  # fmt: skip

Text = str  # ``str`` inside Expression is the namespace of text functions


@dataclass(frozen=True, eq=False)
class Expression:
    """Base of all expressions. Immutable; may be shared between flows and threads."""

    def text(self) -> Text:
        """Return the canonical text: equal texts mean equal expressions."""
        raise NotImplementedError

    def children(self) -> tuple[Expression, ...]:
        """Return the operands."""
        return ()

    def with_children(self, children: tuple[Expression, ...]) -> Expression:
        """Return the same expression over other operands."""
        if children:
            raise ValueError(f"{type(self).__name__} has no operands")
        return self

    def __repr__(self) -> Text:
        """Return the canonical text."""
        return self.text()

    def __bool__(self) -> NoReturn:
        """Refuse ``and``, ``or``, ``not`` and ``if``, which cannot build an expression."""
        raise PlanError(
            f"{self.text()} has no truth value while a plan is built",
            expected="& for and, | for or, ~ for not",
            next_step="write (a) & (b) with brackets",
        )

    __hash__ = object.__hash__

    def __add__(self, other: Expression | LiteralValue) -> Expression:
        """Integers that leave 64 bits are an error; a null operand gives null; two texts are put together."""
        return Binary("add", self, as_expression(other))

    def __radd__(self, other: Expression | LiteralValue) -> Expression:
        """As ``+``."""
        return Binary("add", as_expression(other), self)

    def __sub__(self, other: Expression | LiteralValue) -> Expression:
        """Two timestamps give a duration."""
        return Binary("sub", self, as_expression(other))

    def __rsub__(self, other: Expression | LiteralValue) -> Expression:
        """As ``-``."""
        return Binary("sub", as_expression(other), self)

    def __mul__(self, other: Expression | LiteralValue) -> Expression:
        """Integers that leave 64 bits are an error."""
        return Binary("mul", self, as_expression(other))

    def __rmul__(self, other: Expression | LiteralValue) -> Expression:
        """As ``*``."""
        return Binary("mul", as_expression(other), self)

    def __truediv__(self, other: Expression | LiteralValue) -> Expression:
        """Return a float; x/0 is null."""
        return Binary("div", self, as_expression(other))

    def __rtruediv__(self, other: Expression | LiteralValue) -> Expression:
        """As ``/``."""
        return Binary("div", as_expression(other), self)

    def __floordiv__(self, other: Expression | LiteralValue) -> Expression:
        """Round down, as Python does: -7 // 2 is -4; x // 0 is null."""
        return Binary("floordiv", self, as_expression(other))

    def __rfloordiv__(self, other: Expression | LiteralValue) -> Expression:
        """As ``//``."""
        return Binary("floordiv", as_expression(other), self)

    def __mod__(self, other: Expression | LiteralValue) -> Expression:
        """Take the sign of the divisor, as Python does: -7 % 3 is 2; x % 0 is null."""
        return Binary("mod", self, as_expression(other))

    def __rmod__(self, other: Expression | LiteralValue) -> Expression:
        """As ``%``."""
        return Binary("mod", as_expression(other), self)

    def __neg__(self) -> Expression:
        """Return the negative."""
        return Call("neg", self)

    def __abs__(self) -> Expression:
        """Return the absolute value."""
        return Call("abs", self)

    def __eq__(self, other: object) -> Expression:  # type: ignore[override]  # builds a plan
        """Return whether equal; null if either is null; NaN equals NaN."""
        return Binary("eq", self, as_expression(other))

    def __ne__(self, other: object) -> Expression:  # type: ignore[override]  # builds a plan
        """Return whether different; null if either is null."""
        return Binary("ne", self, as_expression(other))

    def __lt__(self, other: Expression | LiteralValue) -> Expression:
        """NaN is greater than every number."""
        return Binary("lt", self, as_expression(other))

    def __le__(self, other: Expression | LiteralValue) -> Expression:
        """NaN is greater than every number."""
        return Binary("le", self, as_expression(other))

    def __gt__(self, other: Expression | LiteralValue) -> Expression:
        """NaN is greater than every number."""
        return Binary("gt", self, as_expression(other))

    def __ge__(self, other: Expression | LiteralValue) -> Expression:
        """NaN is greater than every number."""
        return Binary("ge", self, as_expression(other))

    def __and__(self, other: Expression | LiteralValue) -> Expression:
        """Three-valued: false & null is false, true & null is null."""
        return Binary("and", self, as_expression(other))

    def __rand__(self, other: Expression | LiteralValue) -> Expression:
        """As ``&``."""
        return Binary("and", as_expression(other), self)

    def __or__(self, other: Expression | LiteralValue) -> Expression:
        """Three-valued: true | null is true, false | null is null."""
        return Binary("or", self, as_expression(other))

    def __ror__(self, other: Expression | LiteralValue) -> Expression:
        """As ``|``."""
        return Binary("or", as_expression(other), self)

    def __invert__(self) -> Expression:
        """Return the opposite of a boolean; null stays null."""
        return Call("not", self)

    def is_null(self) -> Expression:
        """Return whether the value is null. NaN is a number here, not a null."""
        return Call("is_null", self)

    def is_not_null(self) -> Expression:
        """Return whether the value is not null."""
        return Call("is_not_null", self)

    def is_nan(self) -> Expression:
        """Return whether a float is NaN; null for null."""
        return Call("is_nan", self)

    def fill_null(self, value: Expression | LiteralValue) -> Expression:
        """Return ``value`` where this is null; elsewhere ``value`` cannot fail."""
        return FillNull(self, as_expression(value))

    def cast(self, kind: object) -> Expression:
        """Return the value as another type; a value that does not fit is an error when it runs.

        Numbers and timestamps become integers towards zero; timestamps are microseconds since the epoch.
        """
        return Cast(self, kind_named(kind, where=f"{self.text()}.cast(…)"))

    @property
    def str(self) -> TextFunctions:
        """Functions of text."""
        return TextFunctions(self)

    @property
    def dt(self) -> TimeFunctions:
        """Functions of timestamps; all in UTC."""
        return TimeFunctions(self)


@dataclass(frozen=True, eq=False, repr=False)
class Column(Expression):
    """A column of the step's input."""

    name: str

    def text(self) -> str:
        """Return ``col('name')``."""
        return f"col({self.name!r})"


@dataclass(frozen=True, eq=False, repr=False)
class Literal(Expression):
    """One value for every row."""

    value: LiteralValue

    def text(self) -> str:
        """Return the literal's canonical text."""
        return literal_text(self.value)


@dataclass(frozen=True, eq=False, repr=False)
class Binary(Expression):
    """Two operands and one of ``BINARY_SIGNS``."""

    operator: str
    left: Expression
    right: Expression

    def text(self) -> str:
        """Return ``(left + right)``."""
        return f"({self.left.text()} {BINARY_SIGNS[self.operator]} {self.right.text()})"

    def children(self) -> tuple[Expression, ...]:
        """Return left and right."""
        return (self.left, self.right)

    def with_children(self, children: tuple[Expression, ...]) -> Expression:
        """Return the same operation over other operands."""
        left, right = children
        return Binary(self.operator, left, right)


@dataclass(frozen=True, eq=False, repr=False)
class Call(Expression):
    """A function of one operand and constant arguments."""

    function: str
    operand: Expression
    arguments: tuple[str | int, ...] = ()

    def text(self) -> str:
        """Return ``operand.function(arguments)``."""
        arguments = ", ".join(map(repr, self.arguments))
        return f"{self.operand.text()}.{self.function}({arguments})"

    def children(self) -> tuple[Expression, ...]:
        """Return the operand."""
        return (self.operand,)

    def with_children(self, children: tuple[Expression, ...]) -> Expression:
        """Return the same function of another operand."""
        (operand,) = children
        return Call(self.function, operand, self.arguments)


@dataclass(frozen=True, eq=False, repr=False)
class FillNull(Expression):
    """The second operand where the first is null."""

    operand: Expression
    value: Expression

    def text(self) -> str:
        """Return ``operand.fill_null(value)``."""
        return f"{self.operand.text()}.fill_null({self.value.text()})"

    def children(self) -> tuple[Expression, ...]:
        """Return operand and value."""
        return (self.operand, self.value)

    def with_children(self, children: tuple[Expression, ...]) -> Expression:
        """Return the same over other operands."""
        operand, value = children
        return FillNull(operand, value)


@dataclass(frozen=True, eq=False, repr=False)
class Cast(Expression):
    """The operand as another type."""

    operand: Expression
    kind: pa.DataType

    def text(self) -> str:
        """Return ``operand.cast(type)``."""
        return f"{self.operand.text()}.cast({self.kind})"

    def children(self) -> tuple[Expression, ...]:
        """Return the operand."""
        return (self.operand,)

    def with_children(self, children: tuple[Expression, ...]) -> Expression:
        """Return the same cast of another operand."""
        (operand,) = children
        return Cast(operand, self.kind)


@dataclass(frozen=True, eq=False, repr=False)
class Conditional(Expression):
    """The value of the first condition that is true, else the last value."""

    branches: tuple[tuple[Expression, Expression], ...]
    otherwise: Expression

    def text(self) -> str:
        """Return ``when(a).then(b).otherwise(c)``."""
        whens = ".".join(f"when({a.text()}).then({b.text()})" for a, b in self.branches)
        return f"{whens}.otherwise({self.otherwise.text()})"

    def children(self) -> tuple[Expression, ...]:
        """Return condition, value, condition, value, …, otherwise."""
        flat = tuple(part for branch in self.branches for part in branch)
        return (*flat, self.otherwise)

    def with_children(self, children: tuple[Expression, ...]) -> Expression:
        """Return the same over other operands."""
        *flat, otherwise = children
        branches = tuple(zip(flat[::2], flat[1::2], strict=True))
        return Conditional(branches, otherwise)


@dataclass(frozen=True)
class TextFunctions:
    """``ms.col("name").str``: functions of text."""

    _of: Expression

    def lower(self) -> Expression:
        """Return the text in lower case (Unicode)."""
        return Call("lower", self._of)

    def upper(self) -> Expression:
        """Return the text in upper case (Unicode)."""
        return Call("upper", self._of)

    def length(self) -> Expression:
        """Return the number of characters (code points, not bytes)."""
        return Call("length", self._of)

    def contains(self, part: str) -> Expression:
        """Return whether ``part`` occurs, as it is: no pattern characters."""
        return Call("contains", self._of, (part,))

    def starts_with(self, prefix: str) -> Expression:
        """Return whether the text begins with ``prefix``."""
        return Call("starts_with", self._of, (prefix,))

    def like(self, pattern: str, *, escape: str | None = None) -> Expression:
        """Return whether all of the text is as the pattern: ``%`` any characters, ``_`` any one."""
        if escape is not None and len(escape) != 1:
            raise PlanError(
                f"escape={escape!r}", expected="one character", next_step="leave it out"
            )
        return Call("like", self._of, (pattern,) if escape is None else (pattern, escape))


@dataclass(frozen=True)
class TimeFunctions:
    """``ms.col("at").dt``: functions of timestamps, in UTC."""

    _of: Expression

    def year(self) -> Expression:
        """Return the calendar year."""
        return Call("year", self._of)

    def month(self) -> Expression:
        """Return the month, 1 to 12."""
        return Call("month", self._of)

    def day(self) -> Expression:
        """Return the day of the month, 1 to 31."""
        return Call("day", self._of)

    def hour(self) -> Expression:
        """Return the hour, 0 to 23."""
        return Call("hour", self._of)

    def weekday(self) -> Expression:
        """Return the day of the week as in ISO 8601: Monday is 1, Sunday is 7."""
        return Call("weekday", self._of)

    def truncate(self, every: Duration) -> Expression:
        """Round down to a multiple of ``every`` since the epoch, as windows do."""
        size_us = duration_us(every)
        if size_us <= 0:
            raise PlanError(
                f"a timestamp cannot be truncated to {every!r}",
                expected="a positive duration",
                next_step='write for example "1h"',
            )
        return Call("truncate", self._of, (size_us,))


@dataclass(frozen=True)
class When:
    """``ms.when(condition)``: waits for its ``then``."""

    branches: tuple[tuple[Expression, Expression], ...]
    condition: Expression

    def then(self, value: Expression | LiteralValue) -> Then:
        """Give the value where the condition is true (a null condition is not)."""
        return Then((*self.branches, (self.condition, as_expression(value))))


@dataclass(frozen=True)
class Then:
    """``ms.when(…).then(…)``: waits for another ``when`` or for ``otherwise``."""

    branches: tuple[tuple[Expression, Expression], ...]

    def when(self, condition: Expression) -> When:
        """Ask the next condition where none before was true."""
        return When(self.branches, as_expression(condition))

    def otherwise(self, value: Expression | LiteralValue) -> Expression:
        """Give the value where no condition was true; finishes the expression."""
        return Conditional(self.branches, as_expression(value))


def col(name: str) -> Expression:
    """Return the column ``name`` of the step's input."""
    if not _is_name(name):
        raise PlanError(
            f"{name!r} is not the name of a column",
            expected="a non-empty text",
            next_step='write ms.col("name")',
        )
    return Column(name)


def _is_name(name: object) -> bool:
    return isinstance(name, str) and name != ""


def lit(value: LiteralValue) -> Expression:
    """Return ``value`` for every row. Raises PlanError for what cannot be a literal."""
    literal_kind(value)
    return Literal(value)


def when(condition: Expression) -> When:
    """Begin a conditional: ``ms.when(a).then(x).otherwise(y)``."""
    return When((), as_expression(condition))


def as_expression(value: object) -> Expression:
    """Return an expression as it is, and a plain value as a literal."""
    if isinstance(value, Expression):
        return value
    if isinstance(value, When | Then):
        raise PlanError(
            "a conditional is not finished",
            expected="ms.when(…).then(…).otherwise(…)",
            next_step="add .otherwise(None) if the rest is null",
        )
    literal_kind(value)
    return Literal(value)  # type: ignore[arg-type]  # literal_kind has checked it


def columns_of(expression: Expression) -> frozenset[str]:
    """Return the names of the columns that the expression reads."""
    if isinstance(expression, Column):
        return frozenset((expression.name,))
    return frozenset(name for child in expression.children() for name in columns_of(child))


def substituted(expression: Expression, columns: Mapping[str, Expression]) -> Expression:
    """Return the expression with columns replaced by what they were computed from."""
    if isinstance(expression, Column):
        return columns.get(expression.name, expression)
    children = tuple(substituted(child, columns) for child in expression.children())
    return expression.with_children(children)
