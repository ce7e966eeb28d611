"""TPC-H queries as batches: flows beside Polars, DuckDB, Dask and Spark."""
