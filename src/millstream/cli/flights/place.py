"""Where the demo puts its store and its picture, and how a second run starts clean.

    flights.mill/        the store
    flights.mill/DEMO    says that the demo made it; locked while the demo runs
    flights.svg          the picture

Only a store with that mark is removed, and only when nothing else lies in it. Only a picture with our mark is replaced.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from millstream.primitives.errors import ConfigurationError

MARKER = "DEMO"
MARKER_TEXT = "Made by `millstream demo`; its next run removes this directory.\n"
PICTURE_MARK = "<!-- drawn by millstream demo -->"
_OURS = {"MILLSTREAM", MARKER, "catalog.db", "catalog.db-wal", "catalog.db-shm", "segments", "run"}
_ELSEWHERE = "move it away, or choose another place with --store or --picture"


def clear(store: Path, picture: Path) -> bool:
    """Remove the store of an earlier run; return whether there was one.

    Raises ConfigurationError, and removes nothing, when something else is there or another demo runs in it.
    """
    _refuse_foreign_picture(picture)
    _refuse_place_of_picture(picture, store)
    if not os.path.lexists(store) or (store.is_dir() and not any(store.iterdir())):
        return False
    _refuse_foreign_store(store)
    with _locked(store):
        for entry in store.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            elif entry.name != MARKER:
                entry.unlink()
        # Last, so that a removal which was cut short can be taken up again.
        (store / MARKER).unlink()
    store.rmdir()
    return True


@contextlib.contextmanager
def marked(store: Path) -> Iterator[None]:
    """Mark a store that was just made as the demo's, and hold it. Raises ConfigurationError if another demo does."""
    (store / MARKER).touch()
    with _locked(store):
        (store / MARKER).write_text(MARKER_TEXT, encoding="utf-8")
        yield


def write_picture(picture: Path, text: str) -> None:
    """Write the picture; it appears whole or not at all."""
    partial = picture.with_name(f".{picture.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(picture)
    finally:
        partial.unlink(missing_ok=True)


def _refuse_foreign_store(store: Path) -> None:
    why = ""
    if store.is_symlink():
        why = "it is a link"
    elif not store.is_dir():
        why = "it is no directory"
    elif not (store / MARKER).is_file():
        why = f"it holds no file {MARKER}"
    else:
        foreign = sorted({entry.name for entry in store.iterdir()} - _OURS)
        why = f"something else lies in it: {foreign[0]}" if foreign else ""
    if why:
        raise ConfigurationError(
            f"the demo would have to remove {store.name!r}, which it did not make: {why}",
            where=str(store),
            expected="a path where nothing is, or the store of an earlier demo",
            next_step=_ELSEWHERE,
        )


def _refuse_foreign_picture(picture: Path) -> None:
    if not os.path.lexists(picture):
        return
    ours = False
    if picture.is_file():
        with picture.open("rb") as file:
            ours = PICTURE_MARK.encode() in file.read(1_000)
    if not ours:
        raise ConfigurationError(
            f"the demo would have to replace {picture.name!r}, which it did not draw",
            where=str(picture),
            expected="a path where nothing is, or the picture of an earlier demo",
            next_step=_ELSEWHERE,
        )


def _refuse_place_of_picture(picture: Path, store: Path) -> None:
    """Find out now, and not after all the work, that the picture could not be left there."""
    why = ""
    if picture.is_relative_to(store):
        why = "it is in the store, where only the store may be"
    else:
        try:
            picture.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            why = f"its directory cannot be made: {error.strerror}"
        else:
            why = "" if os.access(picture.parent, os.W_OK) else "its directory cannot be written"
    if why:
        raise ConfigurationError(
            f"the picture cannot be left at {picture.name!r}: {why}",
            where=str(picture),
            next_step="choose another place with --picture",
        )


@contextlib.contextmanager
def _locked(store: Path) -> Iterator[None]:
    with (store / MARKER).open("rb") as file:
        try:
            # The kernel frees the lock when its holder dies, however it dies.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(
                "another demo is running in this store",
                where=str(store),
                next_step="wait for its end, or choose another place with --store",
            ) from None
        yield
