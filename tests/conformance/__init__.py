"""The suites that every engine of a contract passes."""
