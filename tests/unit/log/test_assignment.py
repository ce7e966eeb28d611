"""Who reads which partition: balanced, and with few moves."""

from __future__ import annotations

from collections import Counter
from random import Random

from millstream.log.assignment import Member, assign, departed


def loads(targets: dict[int, str | None], members: list[str]) -> list[int]:
    counted = Counter(targets.values())
    return [counted[member] for member in members]


def moves(before: dict[int, str | None], after: dict[int, str | None]) -> int:
    return sum(1 for partition, member in after.items() if before.get(partition) != member)


def test_without_members_nobody_reads():
    assert assign([], [1, 2], {1: "a"}) == {1: None, 2: None}


def test_one_member_reads_everything():
    assert assign(["a"], [3, 1, 2], {}) == {1: "a", 2: "a", 3: "a"}


def test_without_partitions_there_is_nothing_to_read():
    assert assign(["a", "b"], [], {}) == {}


def test_members_without_a_partition_wait():
    targets = assign(["a", "b", "c"], [1, 2], {})
    assert sorted(loads(targets, ["a", "b", "c"])) == [0, 1, 1]


def test_what_is_balanced_stays_where_it_is():
    current: dict[int, str | None] = {1: "b", 2: "a", 3: "b", 4: "a", 5: "b"}
    assert assign(["a", "b"], [1, 2, 3, 4, 5], current) == current


def test_a_member_that_joins_takes_only_its_share():
    before = assign(["a", "b"], range(12), {})
    after = assign(["a", "b", "c"], range(12), before)
    assert loads(after, ["a", "b", "c"]) == [4, 4, 4]
    assert moves(before, after) == 4


def test_a_member_that_leaves_moves_only_its_share():
    before = assign(["a", "b", "c"], range(12), {})
    after = assign(["a", "c"], range(12), before)
    assert loads(after, ["a", "c"]) == [6, 6]
    assert moves(before, after) == 4


def test_a_member_that_comes_back_finds_its_partitions():
    before = assign(["a", "b"], range(6), {})
    assert assign(["b", "a"], range(6), before) == before


def test_any_history_of_a_group_stays_balanced_with_the_fewest_moves(seed: int):
    random = Random(seed)
    partitions = range(random.randint(1, 40))
    members: list[str] = []
    current: dict[int, str | None] = {}
    for step in range(300):
        if members and random.random() < 0.45:
            members.remove(random.choice(members))
        else:
            members.append(f"m{step}")
        targets = assign(members, partitions, current)
        assert set(targets) == set(partitions)
        if members:
            shares = loads(targets, members)
            assert max(shares) - min(shares) <= 1
            assert sum(shares) == len(partitions)
            assert moves(current, targets) == fewest_moves(members, partitions, current)
        current = dict(targets)


def fewest_moves(members: list[str], partitions: range, current: dict[int, str | None]) -> int:
    """What no balanced assignment can beat: each member keeps at most its share of what it has."""
    held = sorted((list(current.values()).count(m) for m in members), reverse=True)
    share, extra = divmod(len(partitions), len(members))
    kept = sum(min(have, share + (1 if i < extra else 0)) for i, have in enumerate(held))
    return len(partitions) - kept


def test_the_dead_and_the_silent_have_departed():
    members = [Member("a", "p1", 100), Member("b", "p2", 100), Member("c", "p1", 50)]
    assert departed(members, 100, {"p1": True, "p2": True}) == ["c"]
    assert departed(members, 50, {"p1": True, "p2": False}) == ["b"]
    assert departed(members, 101, {"p1": True, "p2": True}) == ["a", "b", "c"]
