"""The embedded engine of the log, in a real store."""
