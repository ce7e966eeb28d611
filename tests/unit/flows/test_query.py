"""A step in SQL is the steps it stands for; what cannot be said with them is refused, with the step named."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pytest

from millstream.flows import aggregate as agg
from millstream.flows.expression import Expression, col, lit, when
from millstream.flows.flow import Flow
from millstream.flows.query_expression import NESTING_MAX, OPERATIONS_MAX
from millstream.flows.steps import Sort
from millstream.primitives.errors import ConfigurationError, PlanError
from tests.refusals import refused
from tests.unit.flows.plans import clicks

pytest.importorskip("sqlglot", reason="sqlglot is not installed: pip install millstream[sql]")

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def steps(flow: Flow) -> list[str]:
    return [step.text() for step in flow.plan.steps]


# ---- clauses ------------------------------------------------------------------------------------

CLAUSES: dict[str, Callable[[Flow], Flow]] = {
    "SELECT user, n * 2 AS double FROM self WHERE n > 3": lambda f: f.filter(col("n") > 3).select(
        "user", double=col("n") * 2
    ),
    "SELECT * FROM self": lambda f: f.select("user", "price", "n", "at"),
    "FROM self": lambda f: f.select("user", "price", "n", "at"),
    'select e."user" as "the user" from self as e': lambda f: f.select(**{"the user": col("user")}),
    "SELECT *, n + 1 AS next FROM self": lambda f: f.select(
        "user", "price", "n", "at", next=col("n") + 1
    ),
    "SELECT * EXCLUDE (at, price) REPLACE (n + 1 AS n) FROM self": lambda f: f.select(
        user=col("user"), n=col("n") + 1
    ),
    "SELECT DISTINCT user FROM self": lambda f: f.select("user").distinct(),
    "SELECT user FROM self ORDER BY user DESC LIMIT 3": lambda f: (
        f.select("user").sort("user", descending=True).limit(3)
    ),
    "SELECT n AS number FROM self ORDER BY 1, number": lambda f: f.select(number=col("n")).sort(
        "number", "number"
    ),
    "SELECT user FROM self ORDER BY n * 2 NULLS FIRST": lambda f: (
        f.select("user", order_1=col("n") * 2).sort("order_1").select("user")
    ),
    "SELECT COUNT(*) AS rows FROM self": lambda f: f.agg(rows=agg.count()),
    "SELECT user, COUNT(*) AS rows FROM self GROUP BY user": lambda f: f.group_by("user").agg(
        rows=agg.count()
    ),
    "SELECT UPPER(user) AS who, SUM(n) AS n FROM self GROUP BY who": lambda f: f.group_by(
        who=col("user").str.upper()
    ).agg(n=agg.sum("n")),
    "SELECT UPPER(user) AS who, SUM(n) AS n FROM self GROUP BY 1": lambda f: f.group_by(
        who=col("user").str.upper()
    ).agg(n=agg.sum("n")),
    "SELECT UPPER(user) AS who, SUM(n) AS n FROM self GROUP BY UPPER(user)": lambda f: f.group_by(
        who=col("user").str.upper()
    ).agg(n=agg.sum("n")),
    "SELECT SUM(n) / COUNT(n) AS each FROM self GROUP BY user HAVING SUM(n) > 1 ORDER BY MAX(n)": (
        lambda f: (
            f.group_by("user")
            .agg(agg=agg.sum("n"), agg_1=agg.count("n"), agg_2=agg.max("n"))
            .filter(col("agg") > 1)
            .select(each=col("agg") / col("agg_1"), order_1=col("agg_2"))
            .sort("order_1")
            .select("each")
        )
    ),
    "SELECT n AS user, COUNT(*) AS n FROM self GROUP BY n": lambda f: (
        f.group_by("n").agg(n_1=agg.count()).select(user=col("n"), n=col("n_1"))
    ),
    "SELECT n AS user, user AS n FROM self GROUP BY user, n": lambda f: f.distinct(
        "user", "n"
    ).select(user=col("n"), n=col("user")),
    "SELECT user FROM self GROUP BY user": lambda f: f.distinct("user"),
}


@pytest.mark.parametrize("query", CLAUSES)
def test_a_query_is_the_steps_it_stands_for(query: str):
    meant = CLAUSES[query](clicks())
    told = clicks().sql(query)
    assert steps(told) == steps(meant)
    assert told.schema == meant.schema


def test_each_column_has_its_own_direction():
    flow = clicks().sql("SELECT user, n FROM self ORDER BY user, n DESC")
    assert flow.plan.steps[-1] == Sort(("user", "n"), (False, True))
    assert steps(flow)[-1] == "sort(user, n descending)"


# ---- expressions --------------------------------------------------------------------------------

EXPRESSIONS: dict[str, Expression] = {
    "n + 1 - n * n": col("n") + 1 - col("n") * col("n"),
    "n / 2": col("n") / 2,
    "n // 2": col("n") // 2,
    "n DIV 2": col("n") // 2,
    "n % 2": col("n") % 2,
    "-n": -col("n"),
    "-3": lit(-3),
    "-9223372036854775808": lit(-(2**63)),
    "1.5e3": lit(1500.0),
    "user || '!'": col("user") + "!",
    "n = 1 OR n = 2 AND NOT price <> 3": (col("n") == 1) | ((col("n") == 2) & ~(col("price") != 3)),
    "n == 1": col("n") == 1,
    "n IN (1, 2, 3)": (col("n") == 1) | ((col("n") == 2) | (col("n") == 3)),
    "n NOT IN (1)": ~(col("n") == 1),
    "n BETWEEN 1 AND 2": (col("n") >= 1) & (col("n") <= 2),
    "n IS NULL": col("n").is_null(),
    "n IS NOT NULL": ~col("n").is_null(),
    "-n // 2": -col("n") // 2,
    "(n > 1) IS NOT TRUE": ~(col("n") > 1).fill_null(False),
    "(n > 1) IS FALSE": (~(col("n") > 1)).fill_null(False),
    "CASE WHEN n > 1 THEN 'a' WHEN n > 0 THEN 'b' END": when(col("n") > 1)
    .then("a")
    .when(col("n") > 0)
    .then("b")
    .otherwise(None),
    "CASE n WHEN 1 THEN 2 ELSE 3 END": when(col("n") == 1).then(2).otherwise(3),
    "IF(n > 1, 2, 3)": when(col("n") > 1).then(2).otherwise(3),
    "(n > 1) = ((n IS NULL))": (col("n") > 1) == col("n").is_null(),
    "NULLIF(n, 0)": when(col("n") == 0).then(None).otherwise(col("n")),
    "COALESCE(n, price, 0)": col("n").fill_null(col("price")).fill_null(0),
    "IFNULL(n, 0)": col("n").fill_null(0),
    "CAST(n AS DOUBLE)": col("n").cast(float),
    "n::TEXT": col("n").cast(str),
    "CAST(NULL AS SMALLINT)": lit(None).cast(int),
    "TIMESTAMP '2026-01-31 13:00:00+01:00'": lit(NOON),
    "TIMESTAMP '2026-01-31 12:00:00'": lit(NOON),
    "DATE '2026-01-31'": lit(date(2026, 1, 31)),
    "at + INTERVAL '90' MINUTE": col("at") + timedelta(minutes=90),
    "at - INTERVAL '2 days'": col("at") - timedelta(days=2),
    "EXTRACT(HOUR FROM at) + YEAR(at)": col("at").dt.hour() + col("at").dt.year(),
    "EXTRACT(ISODOW FROM at)": col("at").dt.weekday(),
    "DATE_TRUNC('hour', at)": col("at").dt.truncate("1h"),
    "LENGTH(LOWER(user)) + ABS(n)": col("user").str.lower().str.length() + abs(col("n")),
    "CONTAINS(user, 'a') AND STARTS_WITH(user, 'a')": col("user").str.contains("a")
    & col("user").str.starts_with("a"),
    "user LIKE 'a%_'": col("user").str.like("a%_"),
    "user NOT LIKE 'a!%' ESCAPE '!'": ~col("user").str.like("a!%", escape="!"),
    "user ILIKE 'A%'": col("user").str.lower().str.like("a%"),
    "ISNAN(price)": col("price").is_nan(),
    ":least + :no": lit(3) + lit(None),
    "self.n": col("n"),
}


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_an_expression_is_what_it_is_in_python(text: str):
    flow = clicks().sql(f"SELECT {text} AS x FROM self", parameters={"least": 3, "no": None})
    assert steps(flow) == steps(clicks().select(x=EXPRESSIONS[text]))


AGGREGATES: dict[str, agg.Aggregate] = {
    "COUNT(n)": agg.count("n"),
    "COUNT(DISTINCT n)": agg.n_unique("n"),
    "COUNT(*) FILTER (WHERE n > 1)": agg.count(when(col("n") > 1).then(1).otherwise(None)),
    "SUM(n) FILTER (WHERE n > 1)": agg.sum(when(col("n") > 1).then(col("n")).otherwise(None)),
    "COUNT_IF(n > 1)": agg.count(when(col("n") > 1).then(1).otherwise(None)),
    "AVG(n)": agg.mean("n"),
    "MIN(n)": agg.min("n"),
    "MEDIAN(n)": agg.median("n"),
    "QUANTILE(n, 0.9)": agg.quantile("n", 0.9),
    "STDDEV(n)": agg.std("n"),
    "STDDEV_POP(n)": agg.std("n", ddof=0),
    "VAR_SAMP(n)": agg.var("n"),
    "VAR_POP(n)": agg.var("n", ddof=0),
    "APPROX_COUNT_DISTINCT(n)": agg.approx_n_unique("n"),
    "ARG_MAX(user, n)": agg.arg_max("user", by="n"),
    "MIN_BY(user, n)": agg.arg_min("user", by="n"),
}


@pytest.mark.parametrize("text", AGGREGATES)
def test_an_aggregate_is_what_it_is_in_python(text: str):
    flow = clicks().sql(f"SELECT {text} AS x FROM self")
    assert steps(flow) == steps(clicks().agg(x=AGGREGATES[text]))


def test_an_aggregate_of_something_computed_has_the_name_it_is_given():
    flow = clicks().sql("SELECT SUM(n * 2) AS twice, SUM(n * 2) + 1 AS more FROM self")
    assert steps(flow)[0] == "agg(twice=sum((col('n') * 2)))"
    assert flow.schema.names == ["twice", "more"]


# ---- what is refused ----------------------------------------------------------------------------

REFUSED: dict[str, tuple[str, ...]] = {
    "": ("a query",),
    "SELEC n FROM self": ("no SQL", "line 1"),
    "SELECT n FROM self WHERE (n > 1": ("no SQL", "line 1"),
    "SELECT 'a FROM self": ("no SQL",),
    "SELECT n FROM self; SELECT n FROM self": ("2 queries",),
    "DROP TABLE self": ("DROP",),
    "SELECT n FROM self UNION ALL SELECT n FROM self": ("UNION",),
    "SELECT 1 AS one": ("FROM self",),
    "SELECT n FROM clicks": ("clicks", "self"),
    "SELECT n FROM SELF": ("SELF", "self"),
    "SELECT n FROM db.self": ("DB",),
    "SELECT n FROM self JOIN other USING (n)": ("JOIN", "join()"),
    "SELECT n FROM self, other": ("JOIN", "join()"),
    "SELECT n FROM (SELECT n FROM self) AS x": ("FROM self",),
    "WITH x AS (SELECT 1) SELECT n FROM self": ("WITH", "chain"),
    "SELECT n FROM self WHERE n IN (SELECT n FROM self)": ("inside", "chain"),
    "SELECT n FROM self TABLESAMPLE (10 PERCENT)": ("SAMPLE",),
    "SELECT n FROM self AS t(n)": ("COLUMN",),
    "SELECT t.n FROM self": ("t.n", "self"),
    "SELECT self.n FROM self AS t": ("self.n", "one of t"),
    "SELECT N FROM self": ("'N'", "'n'"),
    "SELECT nn FROM self": ("'nn'", "did you mean 'n'"),
    "SELECT * EXCLUDE (nn) FROM self": ("'nn'",),
    "SELECT n + 1 FROM self": ("no name", "AS"),
    "SELECT n, price AS n FROM self": ("twice",),
    "SELECT NULL AS x FROM self": ("nothing but null",),
    "SELECT n + user AS x FROM self": ("int64 and string",),
    "SELECT at > '2026-01-01' AS x FROM self": ("timestamp",),
    "SELECT n FROM self WHERE n": ("boolean",),
    "SELECT n FROM self WHERE SUM(n) > 1": ("aggregate", "HAVING"),
    "SELECT n FROM self HAVING n > 1": ("WHERE",),
    "SELECT SUM(SUM(n)) AS x FROM self": ("aggregate",),
    "SELECT SUM(DISTINCT n) AS x FROM self": ("DISTINCT",),
    "SELECT COUNT(DISTINCT n, user) AS x FROM self": ("DISTINCT",),
    "SELECT QUANTILE(n, price) AS x FROM self": ("0 to 1",),
    "SELECT n, COUNT(*) AS x FROM self GROUP BY user": ("GROUP BY", "MAX(n)"),
    "SELECT *, COUNT(*) AS x FROM self GROUP BY user": ("name the columns",),
    "SELECT user FROM self GROUP BY 2": ("from 1 to 1",),
    "SELECT user FROM self GROUP BY ROLLUP (user)": ("ROLLUP",),
    "SELECT ROW_NUMBER() OVER (ORDER BY n) AS x FROM self": ("windows of rows", ".window().agg"),
    "SELECT n FROM self QUALIFY SUM(n) OVER () > 1": ("QUALIFY", ".window().agg"),
    "SELECT DISTINCT ON (user) n FROM self": ("ON", "ms.first"),
    "SELECT DISTINCT user FROM self ORDER BY n": ("ORDER BY", "select"),
    "SELECT n FROM self ORDER BY 2": ("from 1 to 1",),
    "SELECT n FROM self ORDER BY n NULLS LAST": ("least values",),
    "SELECT n FROM self ORDER BY n DESC NULLS FIRST": ("least values",),
    "SELECT n FROM self LIMIT n": ("whole number",),
    "SELECT n FROM self LIMIT 1 OFFSET 1": ("OFFSET",),
    "SELECT ROUND(price) AS x FROM self": ("ROUND", "ABS"),
    "SELECT RANDOM() AS x FROM self": ("RAND",),
    "SELECT CURRENT_TIMESTAMP AS x FROM self": ("CURRENT_TIMESTAMP",),
    "SELECT n = 1 IS NULL AS x FROM self": ("brackets",),
    "SELECT NOT n = 1 = TRUE AS x FROM self": ("brackets",),
    "SELECT 0 < n < 3 AS x FROM self": ("brackets",),
    "SELECT n ^ 2 AS x FROM self": ("n ^ 2",),
    "SELECT user LIKE user AS x FROM self": ("one text",),
    "SELECT user LIKE ANY ('a') AS x FROM self": ("ANY",),
    "SELECT user ILIKE 'aXb' ESCAPE 'X' AS x FROM self": ("no letter",),
    "SELECT user LIKE 'a' ESCAPE 'xx' AS x FROM self": ("one character",),
    "SELECT CONTAINS(user, user) AS x FROM self": ("one text",),
    "SELECT n BETWEEN SYMMETRIC 2 AND 1 AS x FROM self": ("SYMMETRIC",),
    "SELECT TRY_CAST(n AS DOUBLE) AS x FROM self": ("TRY_CAST",),
    "SELECT CAST(n AS DECIMAL(9, 2)) AS x FROM self": ("DECIMAL", "BIGINT"),
    "SELECT CAST(price AS TIMESTAMP) AS x FROM self": ("double", "cast"),
    "SELECT DATE '2026-02-30' AS x FROM self": ("no such time", "ISO 8601"),
    "SELECT at + INTERVAL '1 month' AS x FROM self": ("no duration", "MINUTE"),
    "SELECT DATE_TRUNC('week', at) AS x FROM self": ("WEEK", "ms.calendar"),
    "SELECT EXTRACT(EPOCH FROM at) AS x FROM self": ("EXTRACT",),
    "SELECT 9223372036854775808 AS x FROM self": ("64 bits",),
    "SELECT :most AS x FROM self": (":most", "least"),
    "SELECT ? AS x FROM self": ("?", "parameters"),
    f"SELECT n FROM self WHERE {'(' * 400}n > 1{')' * 400}": ("nested",),
    f"SELECT {'+'.join(['n'] * (NESTING_MAX + 2))} AS x FROM self": (str(NESTING_MAX),),
    f"SELECT {'NULLIF(' * 40}n{', 1)' * 40} AS x FROM self": (str(OPERATIONS_MAX),),
}


@pytest.mark.parametrize("query", REFUSED, ids=lambda query: query[:60])
def test_what_has_no_meaning_in_a_flow_is_refused(query: str):
    with refused(PlanError, "step 2, sql", *REFUSED[query]):
        clicks().filter(col("n") > 0).sql(query, parameters={"least": 1})


def test_a_query_is_a_text():
    with refused(PlanError, "step 1, sql", "text"):
        clicks().sql(col("n") > 3)  # type: ignore[arg-type]


def test_a_parameter_is_a_value():
    with refused(PlanError, "step 1, sql", "time zone"):
        naive = datetime(2026, 1, 1)  # noqa: DTZ001
        clicks().sql("SELECT n FROM self WHERE at > :at", parameters={"at": naive})


def test_a_step_in_sql_does_not_follow_the_end():
    with refused(PlanError, "comes after write"):
        clicks().write("there").sql("SELECT n FROM self")


def test_long_chains_of_conditions_are_no_deep_ones():
    many = " OR ".join(f"n = {i}" for i in range(1000))
    listed = ", ".join(map(str, range(1000)))
    flow = clicks().sql(f"SELECT n FROM self WHERE ({many}) AND n IN ({listed})")
    assert flow.schema == pa.schema([("n", pa.int64())])


def test_without_the_parser_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "sqlglot", None)
    with refused(ConfigurationError, "step 1, sql", "pip install millstream[sql]"):
        clicks().sql("SELECT n FROM self")
