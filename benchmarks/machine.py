"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

_IN_MEMORY = frozenset({"tmpfs", "ramfs", "devtmpfs"})


def describe(directory: Path) -> str:
    """Return processor, memory, system, Python and file system in one line."""
    parts = [
        f"{os.cpu_count()} × {_processor()}",
        *_memory(),
        f"{platform.system()} {platform.release()}",
        f"{platform.python_implementation()} {platform.python_version()}",
        file_system(directory),
    ]
    return ", ".join(parts)


def load() -> str:
    """Return the load average: what else the machine was doing."""
    return " ".join(f"{value:.1f}" for value in os.getloadavg())


def file_system(directory: Path) -> str:
    """Return the type of the file system that holds a directory, or "unknown file system"."""
    try:
        lines = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "unknown file system"
    place, found, kind = directory.resolve(), Path("/"), "unknown file system"
    for line in lines:
        _, mounted, type_, *_ = line.split(" ")
        mount = Path(mounted.replace("\\040", " "))
        if place.is_relative_to(mount) and len(mount.parts) >= len(found.parts):
            found, kind = mount, type_
    return kind


def is_in_memory(directory: Path) -> bool:
    """Return whether nothing written there ever reaches a disk, so that a sync costs nothing."""
    return file_system(directory) in _IN_MEMORY


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory() -> list[str]:
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return []
    return [f"{size / 2**30:.0f} GiB"]
