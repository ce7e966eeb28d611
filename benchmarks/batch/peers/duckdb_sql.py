"""DuckDB: the SQL over views of the files, in memory, with its defaults: all processors, most of the memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.batch.contract import Ask, Rows
from benchmarks.batch.sql import QUERIES, TABLES
from benchmarks.peers.contract import installed


@dataclass(frozen=True, slots=True)
class DuckDB:
    """DuckDB."""

    name: str = "duckdb"

    @contextmanager
    def running(self, tables: Path, directory: Path) -> Iterator[Ask]:
        """Connect, and name the files."""
        with installed("duckdb", group="dev").connect() as connection:
            connection.execute(f"set temp_directory = '{directory}'")
            for table in TABLES:
                connection.from_parquet(str(tables / f"{table}.parquet")).create_view(table)

            def ask(query: str) -> Rows:
                rows: Rows = connection.execute(QUERIES[query]).fetchall()
                return rows

            yield ask
