"""What workers tell is bounded, and so are the files that they watch."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

from millstream.engines.local.task_workers import encode, report_of
from millstream.engines.local.worker_sources import SourceWatch, imported_sources
from millstream.tasks.limits import RELOAD_FILES_MAX, RUNNING_TOLD_MAX
from millstream.tasks.message import Claimed

S_NS = 1_000_000_000


def held(number: int) -> Claimed:
    return Claimed(number, f"id-{number}", "shop.add", b"", 1, 0, 0, 0, None)


def test_a_report_names_no_more_than_a_bound_of_what_runs() -> None:
    works = [((held(number),), number) for number in range(RUNNING_TOLD_MAX + 5)]
    report = report_of(works, reserved=3, tally=(7, 2))
    assert len(report.running) == RUNNING_TOLD_MAX
    assert report.running_count == RUNNING_TOLD_MAX + 5
    assert (report.reserved_count, report.succeeded, report.raised) == (3, 7, 2)
    assert report.running[1].started_us == 1
    assert len(encode(report)) < 100 * RUNNING_TOLD_MAX


def test_the_calls_of_a_batch_run_each() -> None:
    report = report_of([((held(1), held(2)), 5)], reserved=0, tally=(0, 0))
    assert [(one.id, one.started_us) for one in report.running] == [("id-1", 5), ("id-2", 5)]


def pretend_module(monkeypatch: pytest.MonkeyPatch, name: str, path: Path) -> None:
    module = ModuleType(name)
    module.__file__ = str(path)
    monkeypatch.setitem(sys.modules, name, module)


def test_no_more_than_a_bound_of_files_is_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(RELOAD_FILES_MAX + 5):
        pretend_module(monkeypatch, f"part_{number}", tmp_path / f"part_{number}.py")
    assert len(imported_sources("part_0")) == RELOAD_FILES_MAX


def test_only_the_files_of_the_app_are_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, package, other = (tmp_path / name for name in ("here", "package", "other"))
    for folder in (here, package, other):
        folder.mkdir()
    monkeypatch.chdir(here)
    pretend_module(monkeypatch, "app_of_test", package / "__init__.py")
    pretend_module(monkeypatch, "near", here / "near.py")
    pretend_module(monkeypatch, "far", other / "far.py")
    pretend_module(monkeypatch, "installed", here / "venv" / "site-packages" / "one.py")
    assert set(imported_sources("app_of_test.tasks")) == {
        str(here / "near.py"),
        str(package / "__init__.py"),
    }


def test_a_file_that_changed_while_a_process_started_counts_as_changed(tmp_path: Path) -> None:
    file = tmp_path / "shop.py"
    file.touch()
    os.utime(file, ns=(50 * S_NS, 50 * S_NS))
    read = {str(file): 50 * S_NS}
    watch = SourceWatch()
    watch.learn(read, started_ns=60 * S_NS)
    assert watch.changed() == []
    watch.learn(read, started_ns=40 * S_NS)
    assert watch.changed() == [str(file)]
    assert watch.changed() == []
    watch.learn({str(file): 49 * S_NS}, started_ns=60 * S_NS)
    assert watch.changed() == [str(file)]
    # A time that lies far ahead is wrong, and would never be over.
    os.utime(file, ns=(10**7 * S_NS, 10**7 * S_NS))
    assert watch.changed() == [str(file)]
    watch.learn({str(file): 10**7 * S_NS}, started_ns=60 * S_NS)
    assert watch.changed() == []
    file.unlink()
    assert watch.changed() == [str(file)]
