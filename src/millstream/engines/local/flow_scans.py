"""Files as Polars frames: what columns a file has, and its rows with the types that a flow reads.

The columns of a source are known before its files are read: they were declared, or are those of the files that were
there. Each file is brought to them by name, whatever its order of columns. A column that is not there, or holds another
sort of value, ends the run with the name of the file: nothing is cut, parsed or left out in silence. In JSON lines a
row may lack a key, which is null.
"""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Final

import polars as pl
import pyarrow as pa

from millstream.engines.local.flow_expression import polars_schema
from millstream.engines.local.flow_steps import widen
from millstream.flows.places import shown
from millstream.flows.source import FileSource
from millstream.primitives.errors import PlanError, StepError

INFERRED_ROWS: Final = 10_000
"""How many rows of CSV and JSON lines say what columns and types there are, where no schema does."""
INFERRED_FILES: Final = 100
"""How many files of JSON lines are asked so."""
TIMED_ROWS: Final = 100
"""How many rows of CSV say whether Polars parses its times, or this module does."""

_Scan = Callable[[list[str]], pl.LazyFrame]
# A name may hold the characters of patterns: what is scanned here was found, and is meant as it is.
_SCANS: Final[dict[str, _Scan]] = {
    "parquet": lambda paths: pl.scan_parquet(paths, glob=False),
    "csv": lambda paths: pl.scan_csv(
        paths, try_parse_dates=True, glob=False, infer_schema_length=INFERRED_ROWS
    ),
    "jsonl": lambda paths: pl.scan_ndjson(_exact(paths), infer_schema_length=INFERRED_ROWS),
    "arrow": lambda paths: pl.scan_ipc(paths, glob=False),
}
_OF_JSON: Final = (
    pl.String,
    pl.Boolean,
    pl.Datetime,
    pl.Date,
    pl.List,
    pl.Array,
    pl.Struct,
    pl.Null,
)
_WIDE: Final = (pl.Int128, pl.UInt128)


def inferred_schema(file_format: str, paths: Sequence[str]) -> pa.Schema:
    """Return the columns of files, which have to be alike. Raises PlanError, and what Polars raises."""
    # Of a text file without a byte nothing can be said.
    filled = [path for path in paths if file_format == "parquet" or Path(path).stat().st_size]
    if file_format == "jsonl":
        found = _keys_of_json(filled[:INFERRED_FILES])
    else:
        found = _SCANS[file_format](filled).collect_schema() if filled else pl.Schema()
    if not found:
        raise PlanError(
            "nothing is in the files that says what columns they have",
            where=shown(paths[0]),
            expected="a row, or a header",
            next_step='say it: read(…, schema={"column": int})',
        )
    for name, kind in found.items():
        if "\0" in name:
            raise PlanError(
                f"the name of a column is {name!r}",
                where=shown(filled[0]),
                expected="text in UTF-8",
                next_step="write the file in UTF-8; this one looks like UTF-16",
            )
        if kind in _WIDE:
            raise PlanError(
                f"column {name!r} holds integers that do not fit in 64 bits",
                where=shown(filled[0]),
                expected="integers of at most 64 bits",
                next_step=f"read them as text: read(…, schema={{{name!r}: str, …}})",
            )
    return found.to_frame().to_arrow(compat_level=pl.CompatLevel.oldest()).schema


def _keys_of_json(paths: Sequence[str]) -> pl.Schema:
    """Return the keys that any of the files has, each of a type that holds the values of all."""
    scans = []
    for path in paths:
        scan = _SCANS["jsonl"]([path])
        try:
            scan.collect_schema()
        except pl.exceptions.PolarsError:
            if Path(path).read_bytes().strip():
                raise
            continue  # nothing but empty lines
        scans.append(scan)
    return pl.concat(scans, how="diagonal_relaxed").collect_schema() if scans else pl.Schema()


def scanned(source: FileSource, paths: Sequence[str], *, told: str | None = None) -> pl.LazyFrame:
    """Return the rows of some files with the types that flows compute with; without any, none.

    ``told`` is what errors call a file that was fetched from elsewhere. Raises StepError for one that does not fit.
    """
    stored = polars_schema(source.stored)
    nothing = pl.DataFrame(schema=stored).lazy()
    parts = []
    for found, alike in _alike(source.file_format, paths, stored, told):
        scan = _scan(source.file_format, alike, stored)
        columns = [
            _typed(name, kind, found, source.file_format, told or alike[0])
            for name, kind in stored.items()
        ]
        parts.append(scan.select(columns))
    return widen(pl.concat(parts) if parts else nothing, stored)


def rows_in(file_format: str, path: Path) -> int:
    """Return how many rows a file has that a flow wrote."""
    if not path.stat().st_size:
        return 0  # JSON lines, without any
    return int(_SCANS[file_format]([str(path)]).select(pl.len()).collect().item())


def reason(why: str) -> str:
    """Return what Polars says of a file in one line."""
    line = (why.strip() or "no reason was given").splitlines()[0]
    no_footer = (
        "it has no footer: it is not whole, or an Arrow stream and not a file (pa.ipc.new_file)"
    )
    return no_footer if "InvalidFooter" in line else line


def unreadable(path: str, why: str) -> StepError:
    """Return the error of a file that cannot be read as it is."""
    return StepError(
        f"the file cannot be read: {reason(why)}",
        where=shown(path),
        expected="a whole file of the flow's columns, which stays as it is once it is there",
        next_step="mend the file or move it away, or say the types of all columns with read(…, schema=…); "
        "write files elsewhere and rename them into place",
    )


@contextmanager
def unreadable_as(path: str) -> Iterator[None]:
    """Turn what is raised while a file is read into StepError with its name."""
    try:
        yield
    except (pl.exceptions.PolarsError, OSError) as error:
        raise unreadable(path, str(error)) from error


def first_unreadable(source: FileSource, paths: Sequence[str]) -> StepError | None:
    """Return the error of the first file that cannot be read to its end, and None if all can."""
    for path in paths:
        try:
            with unreadable_as(path):
                for _ in scanned(source, [path]).collect_batches(engine="streaming"):
                    pass
        except StepError as error:
            return error
    return None


def _exact(paths: Sequence[str]) -> list[str]:
    return [glob.escape(path) for path in paths]


def _scan(file_format: str, paths: Sequence[str], stored: pl.Schema) -> pl.LazyFrame:
    # Times of CSV are parsed as what they look like.
    plain = {name: kind for name, kind in stored.items() if not kind.is_temporal()}
    match file_format:
        case "csv":
            return pl.scan_csv(
                list(paths),
                try_parse_dates=True,
                schema_overrides=plain,
                glob=False,
                raise_if_empty=False,
                infer_schema_length=TIMED_ROWS if len(plain) < len(stored) else 0,
            )
        case "jsonl":
            said = {name: _of_json(kind) for name, kind in stored.items()}
            return pl.scan_ndjson(_exact(paths), schema=said)
    return _SCANS[file_format](list(paths))


def _of_json(kind: pl.DataType) -> pl.DataType:
    """Return as what a value of that type is parsed; what JSON has no words for is text."""
    if kind.is_integer():
        return pl.UInt64() if kind == pl.UInt64 else pl.Int64()
    if kind.is_float():
        return pl.Float64()
    return kind if isinstance(kind, _OF_JSON) else pl.String()


def _alike(
    file_format: str, paths: Sequence[str], stored: pl.Schema, told: str | None
) -> Iterator[tuple[pl.Schema, list[str]]]:
    """Yield files after one another that have the same columns, so that Polars may read them together."""

    def found(path: str) -> pl.Schema:
        with unreadable_as(told or path):
            return _scan(file_format, [path], stored).collect_schema()

    if file_format == "jsonl":
        # The rows say which keys they have.
        yield from (
            (_scan(file_format, paths, stored).collect_schema(), [*paths]) for _ in paths[:1]
        )
        return
    for schema, alike in groupby(paths, key=found):
        if schema:  # a CSV file without even a header has no rows
            yield schema, list(alike)


def _typed(name: str, kind: pl.DataType, schema: pl.Schema, file_format: str, path: str) -> pl.Expr:
    found = schema.get(name)
    column = pl.col(name)
    if found is None:
        raise unreadable(path, f"it has no column {name!r}, only {', '.join(schema.names())}")
    if found == pl.String and file_format == "csv":
        # No time among the first rows: nulls, or not what Polars takes for one.
        if isinstance(kind, pl.Datetime):
            return column.str.to_datetime(time_unit="us", time_zone="UTC").cast(kind)
        if isinstance(kind, pl.Date):
            return column.str.to_date()
    if not _fits(found, kind) and not (file_format == "jsonl" and found == pl.String):
        raise unreadable(path, f"column {name!r} is {found} there, and the flow reads {kind}")
    return column if found == kind else column.cast(kind, strict=True)


def _fits(found: pl.DataType, kind: pl.DataType) -> bool:
    """Return whether each value of one type is one of the other, or an error: none is cut or parsed."""
    if found in (kind, pl.Null):
        return True
    if isinstance(found, pl.List | pl.Array) and isinstance(kind, pl.List | pl.Array):
        return _fits(_inner(found), _inner(kind))
    if isinstance(found, pl.Struct) and isinstance(kind, pl.Struct):
        fields = {field.name: field.dtype for field in found.fields}
        return fields.keys() == {field.name for field in kind.fields} and all(
            _fits(_instance(fields[field.name]), _instance(field.dtype)) for field in kind.fields
        )
    if kind.is_integer():
        return found.is_integer()
    if kind.is_float() or kind.is_decimal():
        return found.is_numeric()
    if isinstance(kind, pl.String | pl.Categorical | pl.Enum):
        return isinstance(found, pl.String | pl.Categorical | pl.Enum)
    if isinstance(kind, pl.Datetime):
        return isinstance(found, pl.Datetime | pl.Date)
    return type(found) is type(kind)


def _inner(kind: pl.List | pl.Array) -> pl.DataType:
    return _instance(kind.inner)


def _instance(kind: object) -> pl.DataType:
    # pl.List and pl.Field may name a type by its class.
    return kind if isinstance(kind, pl.DataType) else kind()  # type: ignore[operator]  # then it is called
