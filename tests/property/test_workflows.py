"""Random nested workflows against a plain recursive evaluation, without and with processes that are killed."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import millstream as ms
from millstream.engines.local.worker import Worker, WorkerSettings
from millstream.primitives.errors import TaskFailed
from millstream.tasks.limits import WORKER_DEATHS_MAX
from millstream.testing import crash

ONCE = ["task.joined", "task.leaving", "task.left", "workflow.started"]
"""Steps that a process comes to once."""
KILL_STEPS = [
    "commit.before",
    "commit.visible",
    "task.acknowledged",
    "task.claimed",
    "task.claiming",
    "task.completed",
    "task.finished",
    "task.inserted",
    "task.started",
    "workflow.inserted",
    "workflow.moved",
    *ONCE,
]


@dataclass(frozen=True)
class Leaf:
    """A call that tells its label and what it was given."""

    label: int
    fails: bool = False
    immutable: bool = False
    replaced: bool = False
    """Its task lets the same call take its place."""


@dataclass(frozen=True)
class Tree:
    """A chain or a group."""

    kind: str
    parts: tuple[Any, ...]


def trees(*, fails: bool) -> st.SearchStrategy[Any]:
    leaves = st.builds(
        Leaf,
        st.integers(0, 99),
        st.sampled_from([True, False, False, False]) if fails else st.just(False),
        st.booleans(),
        st.booleans(),
    )
    return st.recursive(
        leaves,
        lambda parts: st.builds(
            Tree,
            st.sampled_from(["chain", "group"]),
            st.lists(parts, min_size=1, max_size=4).map(tuple),
        ),
        max_leaves=14,
    )


class Failed(Exception):
    """The evaluation failed."""


def evaluate(tree: Any, inputs: Sequence[Any], ran: Counter[int]) -> Any:
    """What the workflow means, in a few lines: every label that runs is counted."""
    if isinstance(tree, Leaf):
        ran[tree.label] += 1
        if tree.fails:
            raise Failed
        return [tree.label] if tree.immutable else [*inputs, tree.label]
    if tree.kind == "group":
        values, failed = [], False
        for part in tree.parts:
            try:
                values.append(evaluate(part, inputs, ran))
            except Failed:
                failed = True
        if failed:
            raise Failed
        return values
    value = None
    for number, part in enumerate(tree.parts):
        value = evaluate(part, inputs if number == 0 else (value,), ran)
    return value


def evaluated(tree: Any) -> tuple[Any, Counter[int]]:
    ran: Counter[int] = Counter()
    try:
        return evaluate(tree, (), ran), ran
    except Failed:
        return Failed, ran


class Shop:
    """An app whose tasks write down what they do, before they end."""

    def __init__(self, folder: str) -> None:
        self.app = ms.App("shop", store=Path(folder) / "w.mill", durability="process")
        ledger = Path(folder) / "ledger"
        self.ledger = ledger

        def leaf(*given: Any) -> list[Any]:
            with ledger.open("a") as lines:
                lines.write(f"{given[-2]}\n")
            if given[-1]:
                raise ValueError("told to fail")
            return list(given[:-1])

        def replaced(self: ms.BoundTask, *given: Any) -> Any:
            self.replace(plain.si(*given))

        plain = self.leaf = self.app.task(name="leaf", retries=0)(leaf)
        self.replaced = self.app.task(name="replaced", retries=0, bind=True)(replaced)

    def step(self, tree: Any) -> Any:
        if isinstance(tree, Leaf):
            task = self.replaced if tree.replaced else self.leaf
            make = task.si if tree.immutable else task.s
            return make(tree.label, tree.fails)
        parts = [self.step(part) for part in tree.parts]
        return ms.chain(*parts) if tree.kind == "chain" else ms.group(parts)

    def work(self) -> None:
        settings = WorkerSettings(burst=True)
        Worker(self.app.tasks_engine, self.app.tasks, settings, chance=Random(0)).run()

    def value(self, result: Any) -> Any:
        try:
            return result.get(0)
        except TaskFailed:
            return Failed

    def ran(self) -> Counter[int]:
        if not self.ledger.exists():
            return Counter()
        return Counter(int(line) for line in self.ledger.read_text().split())


@settings(max_examples=60)
@given(tree=trees(fails=False) | trees(fails=True))
def test_a_workflow_is_its_recursive_evaluation(tree: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        shop = Shop(folder)
        with shop.app:
            result = shop.step(tree).delay()
            shop.work()
            value, ran = evaluated(tree)
            assert shop.value(result) == value
            assert shop.ran() == ran


def send_and_work(report: crash.Report, folder: str, tree: Any) -> None:
    shop = Shop(folder)
    with shop.app:
        report(shop.step(tree).delay().id)
        shop.work()


def work(report: crash.Report, folder: str) -> None:
    shop = Shop(folder)
    with shop.app:
        shop.work()
    report("done")


def random_tree(random: Random, depth: int = 0) -> Any:
    if depth == 4 or random.random() < 0.3 * depth:
        chances = (random.random() < chance for chance in (0.05, 0.3, 0.3))
        return Leaf(random.randrange(10**6), *chances)
    parts = tuple(random_tree(random, depth + 1) for _ in range(random.randint(1, 4)))
    return Tree(random.choice(["chain", "group"]), parts)


@pytest.mark.parametrize("step", KILL_STEPS)
def test_killed_again_and_again_it_ends_as_it_would_have(
    tmp_path: Path, seed: int, step: str
) -> None:
    """Each process dies at a random occurrence of the step, until one comes to the end."""
    random = Random(seed)
    tree = random_tree(random)
    folder = str(tmp_path)
    occurrence = 1 if step in ONCE else random.randint(1, 4)
    done = crash.run(send_and_work, folder, tree, kill_at=crash.KillAt(step, occurrence))
    shop = Shop(folder)
    if not workflows_in(shop):
        # Killed before it was sent, and nothing of it is there.
        assert (shop.ran(), shop.app.tasks_engine.depth()["queued"]) == (Counter(), 0)
        shop.app.close()
        done = crash.run(send_and_work, folder, tree)
    shop.app.close()
    for _ in range(
        WORKER_DEATHS_MAX - 2
    ):  # A task that is there at each of so many deaths is poison.
        kill_at = crash.KillAt(step, 1 if step in ONCE else random.randint(1, 4))
        done = crash.run(work, folder, kill_at=kill_at) if done.killed else done
    done = crash.run(work, folder)
    assert done.reports == ["done"], done.error
    value, ran = evaluated(tree)
    with shop.app:
        assert shop.value(shop.app.tasks.result(workflows_in(shop)[0])) == value
        # Each call was enqueued once. It ran once more for each process that died with it in its hands.
        assert sum(shop.app.tasks_engine.depth().values()) == sum(ran.values())
        assert set(shop.ran()) == set(ran)
        assert max((shop.ran() - ran).values(), default=0) < WORKER_DEATHS_MAX


def test_every_step_on_the_way_of_a_workflow_is_one_to_be_killed_at(
    tmp_path: Path, seed: int
) -> None:
    leaves = [Leaf(n, replaced=n == 3) for n in range(5)]
    inner = Tree("chain", (leaves[0], Tree("group", (leaves[1], leaves[2]))))
    tree = Tree("chain", (Tree("group", (inner, leaves[3])), leaves[4]))
    done = crash.run(send_and_work, str(tmp_path), tree)
    on_the_way = {step for step in done.steps if step.split(".")[0] in {"task", "workflow"}}
    assert on_the_way == {step for step in KILL_STEPS if not step.startswith("commit.")}


def workflows_in(shop: Shop) -> list[str]:
    with shop.app.tasks_engine.store.read() as snapshot:
        return [row[1] for row in snapshot.run("workflows/by_seq", (1,))]
