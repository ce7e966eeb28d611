"""A step written in SQL becomes the steps it stands for: ``sql("SELECT … FROM self WHERE …")``.

    SQL                             steps
    WHERE a > 3                     filter(a > 3)
    SELECT a, b * 2 AS c            select("a", c=b * 2)
    GROUP BY a with COUNT(*) AS n   group_by("a").agg(n=count())
    HAVING COUNT(*) > 1             filter(n > 1)
    SELECT DISTINCT a               select("a").distinct()
    ORDER BY a DESC LIMIT 10        sort("a", descending=True).limit(10)

So a step in SQL has the types, the nulls and the refusals of these steps, in a batch, in a stream and on every engine,
and what a stream cannot finish it refuses as it refuses them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pyarrow as pa

from millstream.flows.expression import Column, Literal
from millstream.flows.kinds import LiteralValue
from millstream.flows.plan import Aggregation
from millstream.flows.query_expression import Translator
from millstream.flows.query_groups import Columns, Groups, Key, has_aggregate, unused
from millstream.flows.query_syntax import Node, name_of, parsed, parts, refuse, shown
from millstream.flows.steps import Filter, Limit, Select, Sort, Step

SELF = "self"
"""What the rows of the flow are called in a query."""


def steps_of(
    query: str, schema: pa.Schema, parameters: Mapping[str, LiteralValue], *, where: str
) -> tuple[Step, ...]:
    """Return the steps that a query stands for, over rows of ``schema``.

    Raises PlanError for what is no query, or cannot be said with the steps of flows; ConfigurationError without the
    parser, the extra ``millstream[sql]``.
    """
    return _Query(parsed(query, where=where), schema, parameters, where).steps()


class _Query:
    """One SELECT over one schema."""

    def __init__(
        self,
        select: Node,
        schema: pa.Schema,
        parameters: Mapping[str, LiteralValue],
        where: str,
    ) -> None:
        self.where = where
        self.schema = schema
        (
            self.items, source, self.condition, self.group, self.having, self.order, self.rows, self.different,
        ) = parts(
            select, "expressions", "from_", "where", "group", "having", "order", "limit", "distinct", where=where
        )  # fmt: skip
        self.rows_of = Translator(self._tables(select, source), parameters, where)
        self.aliases = {
            name: item.args["this"]
            for item in self.items
            if item.key == "alias" and (name := name_of(item.args["alias"])) is not None
        }

    def steps(self) -> tuple[Step, ...]:
        """Return the steps in the order in which SQL computes."""
        found: list[Step] = []
        if self.condition is not None:
            found.append(Filter(self.rows_of.expression(self.condition.args["this"])))
        grouped = self.group is not None or any(
            has_aggregate(node) for node in (*self.items, self.having) if node is not None
        )
        if self.having is not None and not grouped:
            refuse(
                self.having,
                "nothing is grouped",
                where=self.where,
                expected="HAVING behind GROUP BY",
                next_step="to filter rows, write WHERE",
            )
        groups = self._groups() if grouped else None
        translator = self.rows_of if groups is None else groups
        columns = self._selected(translator)
        order, hidden = self._ordered(translator, columns)
        if groups is not None:
            having = None if self.having is None else self.having.args["this"]
            kept = None if having is None else groups.expression(having)
            found.append(groups.aggregation())
            found += [] if kept is None else [Filter(kept)]
        plain = [e.name if isinstance(e, Column) else None for _, e in columns]
        names = [name for name, _ in columns]
        if groups is None or hidden or not plain == names == groups.names:
            found.append(Select((*columns, *hidden)))
        if self.different is not None:
            parts(self.different, where=self.where)
            self._refuse_hidden(hidden)
            found.append(Aggregation(None, tuple((name, Column(name)) for name in names), ()))
        found += order
        if hidden:
            found.append(Select(tuple((name, Column(name)) for name in names)))
        if self.rows is not None:
            found.append(Limit(self._limit()))
        return tuple(found)

    def _tables(self, select: Node, source: Node | None) -> tuple[str, ...]:
        table = None if source is None else source.args["this"]
        if table is None or table.key != "table":
            refuse(
                select,
                "it does not read the rows of the flow",
                where=self.where,
                expected="FROM self",
                next_step="other flows and tables come in with join() and union()",
            )
        this, alias = parts(table, "this", "alias", where=self.where)
        if name_of(this) != SELF:
            refuse(
                table,
                "there is no such table",
                where=self.where,
                expected="self, the rows of the flow",
                next_step="other flows and tables come in with join() and union()",
            )
        if alias is None:
            return (SELF,)
        (named,) = parts(alias, "this", where=self.where)
        return (str(name_of(named)),)

    def _selected(self, translator: Translator) -> Columns:
        columns: Columns = []
        for item in self.items:
            if item.key == "star" or (item.key == "column" and item.args["this"].key == "star"):
                columns += self._all(item, translator)
                continue
            node, name = item, None
            if item.key == "alias":
                node, alias = parts(item, "this", "alias", where=self.where)
                name = name_of(alias)
            elif item.key == "column":
                name = name_of(item)
            if name is None:
                refuse(
                    item,
                    "what is computed has no name",
                    where=self.where,
                    expected="a name for each column that is computed",
                    next_step=f"write {shown(item)} AS name",
                )
            columns.append((name, translator.expression(node)))
        return columns

    def _all(self, item: Node, translator: Translator) -> Columns:
        star = item if item.key == "star" else item.args["this"]
        without, replaced = parts(star, "except_", "replace", where=self.where)
        gone = [str(name_of(name)) for name in without or ()]
        others = {str(name_of(new.args["alias"])): new.args["this"] for new in replaced or ()}
        strange = [name for name in (*gone, *others) if name not in self.schema.names]
        if strange or isinstance(translator, Groups):
            refuse(
                item,
                f"there is no column {strange[0]!r}" if strange else "* has no meaning in groups",
                where=self.where,
                expected=f"some of: {', '.join(self.schema.names)}",
                next_step="name the columns",
            )
        return [
            (name, translator.expression(others[name]) if name in others else Column(name))
            for name in self.schema.names
            if name not in gone
        ]

    def _ordered(self, translator: Translator, columns: Columns) -> tuple[list[Step], Columns]:
        """Return the sort, and the columns it needs that are not selected."""
        if self.order is None:
            return [], []
        (terms,) = parts(self.order, "expressions", where=self.where)
        names = [name for name, _ in columns]
        by: list[str] = []
        directions: list[bool] = []
        hidden: Columns = []
        for term in terms:
            node, descending, nulls_first = parts(
                term, "this", "desc", "nulls_first", where=self.where
            )
            if bool(nulls_first) == bool(descending):
                refuse(
                    term,
                    "nulls are the least values in a flow",
                    where=self.where,
                    expected="nulls first when ascending, last when descending",
                    next_step="leave NULLS FIRST and NULLS LAST out",
                )
            directions.append(bool(descending))
            name = self._output(node, names)
            if name is None:
                name = unused(f"order_{len(by) + 1}", (*names, *(h for h, _ in hidden)))
                hidden.append((name, translator.expression(node)))
            by.append(name)
        same = len(set(directions)) == 1
        return [Sort(tuple(by), directions[0] if same else tuple(directions))], hidden

    def _output(self, node: Node, names: list[str]) -> str | None:
        """Return the output column that a term of ORDER BY means, by its name or its number; else None."""
        if node.key == "column" and node.args.get("table") is None:
            name = name_of(node)
            return name if name in names else None
        if node.key == "literal":
            return names[self._position(node, len(names))]
        return None

    def _refuse_hidden(self, hidden: Columns) -> None:
        if hidden:
            refuse(
                self.order,
                "it orders different rows by what is not in them",
                where=self.where,
                expected="columns of SELECT DISTINCT",
                next_step="select what it orders by",
            )

    def _limit(self) -> int:
        (node,) = parts(self.rows, "expression", where=self.where)
        return self._whole(node)

    def _whole(self, node: Node) -> int:
        value = self.rows_of.expression(node)
        if not isinstance(value, Literal) or type(value.value) is not int:
            refuse(node, "no whole number", where=self.where, expected="a number such as 10")
        return value.value

    def _groups(self) -> Groups:
        return Groups(self.rows_of, self._keys(), self.schema.names, self.aliases)

    def _keys(self) -> Iterable[Key]:
        """Yield the keys of the groups: columns, numbers or names of what is selected, or expressions."""
        if self.group is None:
            return
        (terms,) = parts(self.group, "expressions", where=self.where)
        for term in terms or ():
            node, name = term, None
            if term.key == "literal":
                node = self.items[self._position(term, len(self.items))]
                if node.key == "alias":
                    node, name = node.args["this"], name_of(node.args["alias"])
            elif term.key == "column" and name_of(term) not in self.schema.names:
                name = name_of(term)
                node = self.aliases.get(str(name), term)
            key = self.rows_of.expression(node)
            yield (key.name if isinstance(key, Column) else name), key

    def _position(self, node: Node, count: int) -> int:
        position = self._whole(node)
        if not 1 <= position <= count:
            refuse(node, "there is no such column", where=self.where, expected=f"from 1 to {count}")
        return position - 1
