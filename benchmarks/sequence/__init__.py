"""The benchmark of sequences: events of 10,000 keys put in order on one core, beside a heap a key in plain Python."""
