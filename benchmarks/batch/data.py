"""The tables of TPC-H: made by ``tpchgen-cli``, the same in every run, then stored in types that everybody reads.

tpchgen-cli writes decimals and string views. Dask reads no string views, and pandas computes with decimals one Python
object at a time, so for the benchmark amounts are floats and texts are plain ones, for all systems alike.
"""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.batch.sql import TABLES
from benchmarks.harness import Unavailable

PROGRAM = "tpchgen-cli"
_ROWS_PER_GROUP = 250_000
_TIMEOUT_S = 600.0


def generate(directory: Path, scale: float, tables: Sequence[str] = TABLES) -> None:
    """Write ``<table>.parquet`` for each table as the generator makes it. Raises Unavailable without the program."""
    program = shutil.which(PROGRAM, path=sysconfig.get_path("scripts")) or shutil.which(PROGRAM)
    if program is None:
        raise Unavailable(f"{PROGRAM} is not installed: it makes the tables of TPC-H")
    command = [program, "parquet", "--scale-factor", f"{scale:g}", "--output-dir", str(directory)]
    done = subprocess.run(
        [*command, "--tables", ",".join(tables), "--quiet"],
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{PROGRAM} failed: {done.stderr.strip()[-200:]}")


def simplify(source: Path, target: Path) -> int:
    """Write the tables of one directory to another in plain types; return how many rows there are in all."""
    rows = 0
    for table in TABLES:
        file = pq.ParquetFile(source / f"{table}.parquet")
        plain = pa.schema([pa.field(f.name, _plain(f.type)) for f in file.schema_arrow])
        with pq.ParquetWriter(target / f"{table}.parquet", plain) as writer:
            for batch in file.iter_batches(_ROWS_PER_GROUP):
                writer.write_batch(batch.cast(plain))
                rows += batch.num_rows
    return rows


def _plain(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_decimal(kind):
        return pa.float64()
    return pa.string() if pa.types.is_string_view(kind) else kind
