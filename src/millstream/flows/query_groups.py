"""Groups in steps written in SQL: which columns an aggregation gives, and what expressions over them mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from millstream.flows import aggregate
from millstream.flows.aggregate import Aggregate
from millstream.flows.expression import Column, Conditional, Expression, Literal
from millstream.flows.plan import Aggregation
from millstream.flows.query_expression import AGGREGATES, Translator
from millstream.flows.query_syntax import Node, name_of, refuse, shown

Columns = list[tuple[str, Expression]]
Key = tuple[str | None, Expression]
"""A key of groups, with its name if the query gives one."""


class Groups(Translator):
    """Expressions over groups: aggregates and keys become columns of the aggregation."""

    def __init__(
        self,
        rows: Translator,
        keys: Iterable[Key],
        columns: Sequence[str],
        aliases: Mapping[str, Node],
    ) -> None:
        """``columns`` are those of the rows, ``aliases`` the names that the query gives to what it selects."""
        super().__init__(rows.tables, rows.parameters, rows.where)
        self.rows = rows
        self.columns = columns
        self.aliases = aliases
        self.keys: Columns = []
        self.aggregates: list[tuple[str, Aggregate]] = []
        for name, key in keys:
            self.keys.append((name or self._name(key), key))

    @property
    def names(self) -> list[str]:
        """The columns that the aggregation gives."""
        return [name for name, _ in (*self.keys, *self.aggregates)]

    def aggregation(self) -> Aggregation:
        """Return the step, once all expressions are known."""
        return Aggregation(None, tuple(self.keys), tuple(self.aggregates))

    def _meaning(self, node: Node) -> Expression:
        if node.key in AGGREGATES or node.key == "filter":
            return Column(self._aggregated(node))
        if not has_aggregate(node):
            alias = name_of(node) if node.key == "column" else None
            if alias is not None and alias not in self.columns:
                named = self.aliases.get(alias)
                if named is not None and named.key != "column":
                    return self.expression(named)
            whole = self.rows.expression(node)
            for name, key in self.keys:
                if key.text() == whole.text():
                    return Column(name)
        if node.key == "column":
            refuse(
                node,
                "it is neither a key of the groups nor in an aggregate",
                where=self.where,
                expected="keys of GROUP BY, and aggregates",
                next_step=f"add it to GROUP BY, or write for example MAX({shown(node)})",
            )
        return super()._meaning(node)

    def _aggregated(self, node: Node) -> str:
        of = _Aggregates(self.rows).aggregate(node)
        for name, known in self.aggregates:
            if known.text() == of.text():
                return name
        wanted = next((alias for alias, named in self.aliases.items() if named is node), "agg")
        name = unused(wanted, self.names)
        self.aggregates.append((name, of))
        return name

    def _name(self, key: Expression) -> str:
        for name, node in self.aliases.items():
            if not has_aggregate(node) and self.rows.expression(node).text() == key.text():
                return name
        return unused("key", self.names)


class _Aggregates:
    """Turns the aggregates of SQL into ours."""

    def __init__(self, rows: Translator) -> None:
        self.rows = rows

    def aggregate(self, node: Node) -> Aggregate:
        """Return the aggregate that a node is; ``FILTER (WHERE …)`` makes null of what it leaves out."""
        if node.key != "filter":
            return self._plain(node, None)
        this, condition = self.rows.parts(node, "this", "expression")
        if this.key not in AGGREGATES:
            self.rows.refuse_unknown(this)
        return self._plain(this, self.rows.expression(condition.args["this"]))

    def _plain(self, node: Node, condition: Expression | None) -> Aggregate:
        key = node.key
        if key == "count":
            return self._count(node, condition)
        if key == "countif":
            (this,) = self.rows.parts(node, "this")
            truth = self._of(this, condition)
            return aggregate.count(Conditional(((truth, Literal(1)),), Literal(None)))
        if key == "quantile":
            this, share = self.rows.parts(node, "this", "quantile")
            q = self.rows.expression(share)
            if not isinstance(q, Literal) or not isinstance(q.value, int | float):
                refuse(share, "no share", where=self.rows.where, expected="a number from 0 to 1")
            return aggregate.quantile(self._of(this, condition), float(q.value))
        if key in ("argmin", "argmax"):
            this, by = self.rows.parts(node, "this", "expression")
            function = aggregate.arg_min if key == "argmin" else aggregate.arg_max
            return function(self._of(this, condition), by=self._of(by, condition))
        (this,) = self.rows.parts(node, "this")
        of = self._of(this, condition)
        match key:
            case "stddevpop":
                return aggregate.std(of, ddof=0)
            case "variancepop":
                return aggregate.var(of, ddof=0)
        return _PLAIN[key](of)

    def _count(self, node: Node, condition: Expression | None) -> Aggregate:
        this, others = self.rows.parts(node, "this", "expressions")
        if others:
            self.rows.refuse_unknown(node)
        if this is None or this.key == "star":
            return aggregate.count() if condition is None else aggregate.count(
                Conditional(((condition, Literal(1)),), Literal(None))
            )  # fmt: skip
        if this.key != "distinct":
            return aggregate.count(self._of(this, condition))
        (values,) = self.rows.parts(this, "expressions")
        if len(values) != 1:
            self.rows.refuse_unknown(this)
        return aggregate.n_unique(self._of(values[0], condition))

    def _of(self, node: Node, condition: Expression | None) -> Expression:
        of = self.rows.expression(node)
        return of if condition is None else Conditional(((condition, of),), Literal(None))


_PLAIN: dict[str, Callable[[Expression], Aggregate]] = {
    "sum": aggregate.sum,
    "avg": aggregate.mean,
    "min": aggregate.min,
    "max": aggregate.max,
    "median": aggregate.median,
    "stddev": aggregate.std,
    "stddevsamp": aggregate.std,
    "variance": aggregate.var,
    "approxdistinct": aggregate.approx_n_unique,
}


def has_aggregate(node: Node) -> bool:
    """Return whether there is an aggregate in a node."""
    rest = [node]
    while rest:
        here = rest.pop()
        if here.key in AGGREGATES:
            return True
        for value in here.args.values():
            values = value if isinstance(value, list) else [value]
            rest += [part for part in values if hasattr(part, "args")]
    return False


def unused(name: str, taken: Iterable[str]) -> str:
    """Return the name, or with a number behind it the first that is not taken."""
    used = set(taken)
    if name not in used:
        return name
    return next(n for i in range(1, len(used) + 2) if (n := f"{name}_{i}") not in used)
