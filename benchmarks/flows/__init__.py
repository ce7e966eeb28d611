"""The benchmark of flows: rows a second as a batch and as a stream, beside plain Polars."""
