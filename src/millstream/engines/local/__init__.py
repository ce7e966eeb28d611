"""The embedded engine: everything in one directory, without a server."""
