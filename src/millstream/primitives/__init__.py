"""Leaves that every other folder may use: errors, time, identity, schemas, limits. No I/O."""
