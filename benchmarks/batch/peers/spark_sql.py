"""PySpark: the SQL over views of the files, ``local[2]``, 4 GB of heap.

Tuned for one machine: four shuffle partitions instead of 200, adaptive execution, tables up to 64 MB broadcast, no web
interface. Needs Java 17 or newer.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.batch.contract import Ask, Rows
from benchmarks.batch.sql import QUERIES, TABLES
from benchmarks.harness import Unavailable
from benchmarks.peers.contract import installed

_CONF = {
    "spark.driver.memory": "4g",
    "spark.sql.shuffle.partitions": "4",
    "spark.sql.adaptive.enabled": "true",
    "spark.sql.autoBroadcastJoinThreshold": "64m",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
}


@dataclass(frozen=True, slots=True)
class Spark:
    """Spark on two threads."""

    name: str = "pyspark"

    @contextmanager
    def running(self, tables: Path, directory: Path) -> Iterator[Ask]:
        """Start the virtual machine, and name the files."""
        if "JAVA_HOME" not in os.environ and shutil.which("java") is None:
            raise Unavailable("needs Java (on Debian: apt-get install openjdk-17-jre-headless)")
        os.environ["PYSPARK_PYTHON"] = sys.executable
        builder = installed("pyspark.sql").SparkSession.builder.master("local[2]")
        conf = {**_CONF, "spark.local.dir": str(directory)}
        conf["spark.sql.warehouse.dir"] = str(directory / "warehouse")
        for key, value in conf.items():
            builder = builder.config(key, value)
        spark = builder.getOrCreate()
        try:
            spark.sparkContext.setLogLevel("ERROR")
            for table in TABLES:
                path = str(tables / f"{table}.parquet")
                spark.read.parquet(path).createOrReplaceTempView(table)

            def ask(query: str) -> Rows:
                return [tuple(row) for row in spark.sql(QUERIES[query]).collect()]

            yield ask
        finally:
            spark.stop()
