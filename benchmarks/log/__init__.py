"""The benchmark of the log: appends, concurrent appends, reading, latency between processes, memory."""
