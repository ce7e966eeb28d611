"""PySpark Structured Streaming in this machine: ``local[2]``, 2 shuffle partitions, its usual state store.

Checkpoints lie on local disk: a crash of its process loses nothing that was committed. ``availableNow``, Parquet in,
half a million events a micro-batch, Parquet out. Starting the session is not counted; a small query runs first.

Single events come over its socket source and go on from ``foreachBatch``, with a trigger that does not wait.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import Values
from benchmarks.peers.contract import installed
from benchmarks.stream.contract import PEAK, RATE, RELAY, WINDOWS, Job, answer, peak_mib
from benchmarks.stream.events import INTEGER
from benchmarks.stream.peers.lines import HOST, connected, put

_SETTINGS = {
    "spark.sql.shuffle.partitions": "2",
    "spark.sql.session.timeZone": "UTC",
    "spark.ui.enabled": "false",
    "spark.driver.memory": "2g",
    "spark.log.level": "ERROR",
}


def windows(job: Job) -> Values:
    """Count and sum by key and window."""
    spark = _session(job)
    _run(spark, job, "end", Path(job.place) / "warm", Path(job.place) / "warm-result")
    began = time.perf_counter()
    _run(spark, job, "{parts,end}", Path(job.place) / "measured", Path(job.result))
    values = {RATE: job.events / (time.perf_counter() - began), PEAK: peak_mib()}
    spark.stop()
    return values


def _run(spark: Any, job: Job, parts: str, checkpoint: Path, result: Path) -> None:
    f = installed("pyspark.sql.functions")
    kind = "bigint" if job.keys == INTEGER else "string"
    (
        spark.readStream.schema(f"key {kind}, value bigint, at timestamp")
        .option("maxFilesPerTrigger", 1)
        .parquet(f"{job.source}/{parts}/")
        .withWatermark("at", "1 second")
        .groupBy(f.window("at", "10 seconds"), "key")
        .agg(f.count("*").alias("hits"), f.sum("value").alias("total"))
        .select(f.unix_micros("window.start").alias("start_us"), "key", "hits", "total")
        .writeStream.format("parquet")
        .option("checkpointLocation", str(checkpoint))
        .trigger(availableNow=True)
        .start(str(result))
        .awaitTermination()
    )


def relay(job: Job) -> Values:
    """Pass single events on."""
    f = installed("pyspark.sql.functions")
    spark = _session(job)
    lines = (
        spark.readStream.format("socket").option("host", HOST).option("port", job.ports[0]).load()
    )
    parted = f.split("value", " ")
    kept = lines.select(parted[0].alias("stamp"), parted[1].cast("bigint").alias("value"))
    kept = kept.where("value != 0").select("stamp", (f.col("value") * 2).alias("double"))
    with connected(job.ports[1]) as sink:

        def give(batch: Any, number: int) -> None:
            columns = batch.toArrow().to_pydict()
            rows = zip(columns["stamp"], columns["double"], strict=True)
            put(sink, (f"{stamp} {double}".encode() for stamp, double in rows))

        query = kept.writeStream.foreachBatch(give).trigger(processingTime="0 seconds").start()
        query.awaitTermination()
    return {}


def _session(job: Job) -> Any:
    os.environ["PYSPARK_PYTHON"] = sys.executable
    builder = installed("pyspark.sql").SparkSession.builder.master("local[2]")
    for name, value in _SETTINGS.items():
        builder = builder.config(name, value)
    return builder.config("spark.local.dir", job.place).getOrCreate()


if __name__ == "__main__":
    answer({WINDOWS: windows, RELAY: relay})
