"""millstream: flows over the files. A run writes its four delays to the catalog, with ``durability="process"``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.batch.contract import Ask, Rows
from benchmarks.batch.sql import TABLES
from benchmarks.harness import OWN


@dataclass(frozen=True, slots=True)
class Millstream:
    """Our flows."""

    name: str = OWN

    @contextmanager
    def running(self, tables: Path, directory: Path) -> Iterator[Ask]:
        """Make a store."""
        import millstream as ms
        from benchmarks.batch.flows import FLOWS

        with ms.App("bench", store=directory / "bench.mill", durability="process") as app:

            def ask(query: str) -> Rows:
                flows = {name: app.read(tables / f"{name}.parquet") for name in TABLES}
                table = FLOWS[query](flows).collect()
                return list(zip(*(column.to_pylist() for column in table.columns), strict=True))

            yield ask
