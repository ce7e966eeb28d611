"""Damage to any file of a store: a typed error or the exact truth, never wrong data.

One byte of one file is changed, the file is cut or made longer, at many places that the seed chooses. Then the store is
opened and everything in it is read. Whatever comes without an error must be what was stored. ``check`` must find what
a reader refuses.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pytest

from millstream.engines.local.log import LocalLog
from millstream.log.contract import ConsumerOptions
from millstream.log.definition import TopicInfo
from millstream.primitives.errors import MillstreamError, StoreCorrupt
from millstream.store import Store
from millstream.store.check import check
from millstream.testing.log_suite import drain, options
from tests.log_kit import append_singly, make, read_rows

CHANGES = 5
"""How many bits of each file are flipped; a store has nine files or so."""
# Their content means nothing: they are locked, or hold wake-ups.
MEANINGLESS = ("lock", "live/", "wake/")


@dataclass(frozen=True)
class Truth:
    """Everything that a user can see of a store."""

    topics: dict[str, list[list[tuple[int, int, dict[str, Any]]]]]
    ends: dict[str, list[tuple[int, int]]]
    lag: dict[str, dict[str, list[int]]]


def look(log: LocalLog) -> Truth:
    """Read everything. Raises what reading raises."""
    infos = {name: log.topic(name) for name in log.topic_names()}
    return Truth(
        {
            name: [read_rows(log, info, p, bytes_max=200_000) for p in range(info.partitions)]
            for name, info in infos.items()
        },
        {name: log.ends(info) for name, info in infos.items()},
        {
            name: {group: [one.position for one in lags] for group, lags in log.lag(info).items()}
            for name, info in infos.items()
        },
    )


def fill(log: LocalLog) -> None:
    """Store small and large frames, rows and columns, merged and compacted ones, groups and producers."""
    small = make(log, "small", schema={"k": str | None, "n": int}, key="k", partitions=2)
    append_singly(
        log, small, [{"k": None if n % 7 == 0 else f"k{n % 5}", "n": n} for n in range(200)]
    )
    log.upkeep.merge()
    for n in range(5):
        log.append(small, {"k": "later", "n": n})
    large = make(log, "large", schema={"data": bytes, "at": pa.timestamp("us", "UTC")})
    for n in range(6):
        log.append(large, pa.table({"data": [bytes([n]) * 9_000] * 3, "at": [n] * 3}))
    compacted = make(log, "compacted", schema={"k": int, "text": str}, key="k", compaction=True)
    log.append(compacted, [{"k": n % 4, "text": f"text {n}" * 200} for n in range(60)])
    for partition in log.upkeep._partitions():
        if partition.compaction:
            log.upkeep.compact_partition(partition)
    read_some(log, small, options(batch_events=30))
    log.upkeep.sweep()


def read_some(log: LocalLog, info: TopicInfo, how: ConsumerOptions) -> None:
    with log.consumer(info, "readers", how) as consumer:
        consumer.poll(0)
        consumer.commit()
    with log.consumer(info, "others", how) as consumer:
        drain(consumer)
        consumer.commit()


@dataclass(frozen=True)
class Original:
    path: Path
    truth: Truth


@pytest.fixture(scope="module", params=["closed", "killed"])
def original(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Original:
    """A store that was closed in order, or one whose process died with all its log still in the WAL."""
    folder = tmp_path_factory.mktemp(request.param)
    path, kept = folder / "store.mill", folder / "kept.mill"
    store = Store.open(path, durability="process")
    log = LocalLog(store)
    store.duty.stop()
    fill(log)
    truth = look(log)
    if request.param == "killed":
        # A copy of a store that nobody writes to is what kill -9 leaves.
        copy(path, kept)
    log.close()
    store.close()
    return Original(kept if request.param == "killed" else path, truth)


def copy(source: Path, target: Path) -> None:
    """Copy a store; its FIFOs are made anew when it is opened."""
    shutil.copytree(
        source, target, ignore=lambda folder, _: ["wake"] if folder.endswith("run") else []
    )


def files(path: Path) -> list[Path]:
    """Return all files of a store, relative, with something in them."""
    return sorted(
        each.relative_to(path)
        for each in path.rglob("*")
        if each.is_file() and each.stat().st_size and not is_meaningless(each)
    )


def is_meaningless(path: Path) -> bool:
    return any(part in path.as_posix() for part in MEANINGLESS)


def damages(content: bytes, random: Random) -> Iterator[tuple[str, bytes]]:
    """Yield (what was done, the damaged content)."""
    size = len(content)
    for _ in range(CHANGES):
        place, bit = random.randrange(size), random.randrange(8)
        changed = bytearray(content)
        changed[place] ^= 1 << bit
        yield f"bit {bit} of byte {place} of {size}", bytes(changed)
    start = random.randrange(size)
    length = min(size - start, random.randint(1, 5_000))
    for name, noise in (("noise", random.randbytes(length)), ("zeros", bytes(length))):
        yield (
            f"{name} from {start}, {length} bytes",
            content[:start] + noise + content[start + length :],
        )
    for length in {0, size - 1, random.randrange(size)}:
        yield f"cut to {length} of {size}", content[:length]
    more = random.choice([bytes(5_000), random.randbytes(4_120)])
    yield f"{len(more)} bytes longer", content + more


def outcome(path: Path) -> Truth | MillstreamError:
    """Open and read a store; return what was seen, or the error of ours."""
    try:
        with Store.open(path, durability="process") as store:
            log = LocalLog(store)
            store.duty.stop()
            try:
                return look(log)
            finally:
                log.close()
    except MillstreamError as error:
        return error


def test_no_damage_to_any_file_is_ever_misread(original: Original, tmp_path: Path, seed: int):
    random, victim = Random(seed), tmp_path / "victim.mill"
    refused = read = 0
    for name in files(original.path):
        content = (original.path / name).read_bytes()
        for what, changed in damages(content, random):
            copy(original.path, victim)
            (victim / name).write_bytes(changed)
            found = check(victim)
            seen = outcome(victim)
            place = f"{name}: {what}"
            if isinstance(seen, Truth):
                assert seen == original.truth, place
                read += 1
            else:
                assert seen.what, place
                assert found, f"{place}: check finds nothing, and a reader says: {seen}"
                assert all(finding.what and finding.where for finding in found)
                refused += 1
            shutil.rmtree(victim)
    assert refused > 20, "hardly any damage was noticed"
    assert read > 10, "not even harmless damage could be read"


def test_a_sound_store_has_no_findings_and_checking_changes_no_byte(
    original: Original, tmp_path: Path
):
    path = tmp_path / "store.mill"
    copy(original.path, path)
    # SQLite's index of its log is no part of the content: it is made anew from the log.
    names = [name for name in files(path) if not name.name.endswith("-shm")]
    before = {name: (path / name).read_bytes() for name in names}
    assert check(path) == []
    assert {name: (path / name).read_bytes() for name in names} == before


def test_a_catalog_that_is_gone_is_missed_and_not_made_anew(original: Original, tmp_path: Path):
    path = tmp_path / "store.mill"
    copy(original.path, path)
    (path / "catalog.db").unlink()
    assert any("catalog.db" in finding.where for finding in check(path))
    assert isinstance(outcome(path), StoreCorrupt)


def test_a_marker_that_is_gone_is_said_by_check_and_written_again(
    original: Original, tmp_path: Path
):
    path = tmp_path / "store.mill"
    copy(original.path, path)
    (path / "MILLSTREAM").unlink()
    assert [finding.what for finding in check(path)] == ["the marker is missing"]
    assert outcome(path) == original.truth
    assert check(path) == []


def test_a_segment_that_is_gone_is_missed(original: Original, tmp_path: Path):
    missed = 0
    for name in files(original.path):
        if name.suffix == ".frames":
            path = tmp_path / name.stem
            copy(original.path, path)
            (path / name).unlink()
            found, seen = check(path), outcome(path)
            if found:
                assert all("missing" in finding.what for finding in found)
                assert isinstance(seen, StoreCorrupt)
                missed += 1
            else:  # one whose frames were all merged or compacted away
                assert seen == original.truth
    assert missed


def test_the_folder_of_the_living_may_be_removed(original: Original, tmp_path: Path):
    path = tmp_path / "store.mill"
    copy(original.path, path)
    shutil.rmtree(path / "run")
    assert check(path) == []
    assert outcome(path) == original.truth


def test_what_is_left_over_from_a_crash_is_no_fault_and_goes(original: Original, tmp_path: Path):
    path = tmp_path / "store.mill"
    copy(original.path, path)
    left_over = path / "segments" / "00000001" / "0000000000009999.frames"
    left_over.parent.mkdir(exist_ok=True)
    left_over.write_bytes(b"MSF1 half a frame")
    assert check(path) == []
    assert outcome(path) == original.truth
    assert not left_over.exists()
