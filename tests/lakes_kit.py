"""Tables of a lake in a folder: how a flow declares them, and what is in them by their own libraries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import deltalake
import pyarrow as pa
from pyiceberg.catalog import Catalog, load_catalog

from millstream.flows.lakes import LakeTable, delta, iceberg

KINDS = ("delta", "iceberg")


class Lake(Protocol):
    """A folder of tables of one format."""

    kind: str

    def declared(self, name: str, **options: Any) -> LakeTable:
        """Return a table as flows name it; ``version`` is that of its kind."""

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Return what the table holds."""

    def make(self, name: str, rows: pa.Table, **options: Any) -> None:
        """Add rows by one commit; a missing table is made."""

    def delete(self, name: str, condition: str) -> None:
        """Remove rows."""

    def versions(self, name: str) -> list[int]:
        """Return the versions, oldest first."""

    def partitions(self, name: str) -> list[str]:
        """Return the columns of the partitions."""

    def files(self, name: str) -> list[Path]:
        """Return the data files that the newest version names."""

    def at_ms(self, name: str, version: int) -> int:
        """Return when a version was committed."""


class DeltaLake:
    kind = "delta"

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "delta"

    def declared(self, name: str, **options: Any) -> LakeTable:
        return delta(self._folder / name, **options)

    def table(self, name: str) -> deltalake.DeltaTable:
        return deltalake.DeltaTable(self._folder / name)

    def rows(self, name: str) -> list[dict[str, Any]]:
        return self.table(name).to_pyarrow_table().to_pylist()

    def make(self, name: str, rows: pa.Table, **options: Any) -> None:
        deltalake.write_deltalake(self._folder / name, rows, mode="append", **options)

    def delete(self, name: str, condition: str) -> None:
        self.table(name).delete(condition)

    def versions(self, name: str) -> list[int]:
        return list(range(self.table(name).version() + 1))

    def partitions(self, name: str) -> list[str]:
        return self.table(name).metadata().partition_columns

    def files(self, name: str) -> list[Path]:
        root = self._folder / name
        return [root / path for path in self.table(name).to_pyarrow_dataset().files]

    def at_ms(self, name: str, version: int) -> int:
        [found] = [entry for entry in self.table(name).history() if entry["version"] == version]
        return int(found["timestamp"])


class IcebergLake:
    kind = "iceberg"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with self.catalog() as catalog:
            catalog.create_namespace_if_not_exists("db")

    @property
    def properties(self) -> Mapping[str, str]:
        folder = self._folder
        return {
            "type": "sql",
            "uri": f"sqlite:///{folder}/catalog.db",
            "warehouse": f"file://{folder}/warehouse",
        }

    def catalog(self) -> Catalog:
        """Return the catalog, which is to be closed."""
        return load_catalog("default", **self.properties)

    def declared(self, name: str, **options: Any) -> LakeTable:
        if "version" in options:
            options["snapshot"] = options.pop("version")
        return iceberg(f"db.{name}", catalog=self.properties, **options)

    @contextmanager
    def table(self, name: str) -> Iterator[Any]:
        with self.catalog() as catalog:
            yield catalog.load_table(f"db.{name}")

    def rows(self, name: str) -> list[dict[str, Any]]:
        with self.table(name) as table:
            return table.scan().to_arrow().to_pylist()

    def make(self, name: str, rows: pa.Table, *, partition_by: str | None = None) -> None:
        with self.catalog() as catalog:
            if not catalog.table_exists(f"db.{name}"):
                with (
                    catalog.create_table_transaction(f"db.{name}", schema=rows.schema) as making,
                    making.update_spec() as spec,
                ):
                    if partition_by is not None:
                        spec.add_identity(partition_by)
            catalog.load_table(f"db.{name}").append(rows)

    def delete(self, name: str, condition: str) -> None:
        with self.table(name) as table:
            table.delete(condition)

    def versions(self, name: str) -> list[int]:
        with self.table(name) as table:
            return [snapshot.snapshot_id for snapshot in table.snapshots()]

    def partitions(self, name: str) -> list[str]:
        with self.table(name) as table:
            return [field.name for field in table.spec().fields]

    def files(self, name: str) -> list[Path]:
        with self.table(name) as table:
            tasks = table.scan().plan_files()
            return [Path(task.file.file_path.removeprefix("file://")) for task in tasks]

    def at_ms(self, name: str, version: int) -> int:
        with self.table(name) as table:
            return int(table.snapshot_by_id(version).timestamp_ms)


def lake(kind: str, folder: Path) -> Lake:
    return DeltaLake(folder) if kind == "delta" else IcebergLake(folder)
