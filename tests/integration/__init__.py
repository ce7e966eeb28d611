"""Several parts together: real directories, real SQLite, real processes."""
