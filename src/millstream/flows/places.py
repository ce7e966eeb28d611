"""Paths and URLs of files: which are which, and what of them may be shown. No file is looked at here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, Final

from millstream.primitives.errors import PlanError

READ_ONLY: Final = (
    "data",
    "git",
    "github",
    "http",
    "https",
    "jlab",
    "libarchive",
    "reference",
    "tar",
    "zip",
)
"""Where fsspec reads and cannot add a file, or only by rewriting all of them."""

_REMOTE: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(://|::)")
_LOCAL: Final = re.compile(r"(file|local)://", re.IGNORECASE)
_PASSWORD: Final = re.compile(r"//[^/@:]*:[^/@]*@")


def plain_path(text: str) -> str:
    """Return a path as it is, and ``file://…`` as the path that it names."""
    found = _LOCAL.match(text)
    return text[found.end() :] if found and "::" not in text else text


def is_remote(text: str) -> bool:
    """Return whether it is a URL for fsspec, and not a path on this machine."""
    return _REMOTE.match(text) is not None


def shown(text: str) -> str:
    """Return a path or a URL without a password."""
    return _PASSWORD.sub("//", text)


def name_in(text: str) -> str:
    """Return the last name of a path or URL; of a chain (``zip://a.csv::s3://…``) that of the innermost file."""
    return PurePath(text.split("::")[0] if is_remote(text) else text).name


def suffix_in(text: str) -> str:
    """Return the suffix of that name, in lower case."""
    return PurePath(name_in(text)).suffix.lower()


def refuse_options(text: str, options: Mapping[str, Any] | None, *, where: str) -> None:
    """Raise PlanError for options of something that is not on another file system."""
    if options and not is_remote(text):
        raise PlanError(
            "storage_options are for URLs of other file systems",
            where=where,
            expected="a URL such as s3://bucket/path, or no storage_options",
            next_step="leave them out",
        )


def refuse_unwritable(text: str, *, where: str) -> None:
    """Raise PlanError for a URL that files can be read from and not be written to."""
    protocol = text.split(":", 1)[0].lower()
    if is_remote(text) and ("::" in text or protocol in READ_ONLY):
        raise PlanError(
            f"files cannot be written to {shown(text)!r}",
            where=where,
            expected="a file system that takes new files, such as s3://, gs://, abfs:// or sftp://",
            next_step="write to a directory, and pack or upload it afterwards",
        )
