"""Verifying a store, for those who may not touch ``store`` themselves."""

import os
from pathlib import Path

from millstream.store.check import Finding, Report, check, inspect
from millstream.store.directory import Directory


def is_store(path: str | os.PathLike[str]) -> bool:
    """Return whether there is a store at ``path``, sound or not; an empty directory is none yet."""
    directory = Directory(Path(path))
    return directory.marker.is_file() or directory.catalog.is_file()


__all__ = ["Finding", "Report", "check", "inspect", "is_store"]
