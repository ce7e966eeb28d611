"""The vocabulary of the log: topics, partitions, offsets, producers, consumer groups. Decides; does no I/O."""
