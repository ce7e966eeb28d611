"""The vocabulary of the log: pure decisions."""
