"""Engines: a folder a system, a file a contract. The same file name passes the same suite."""
