"""Calls of tasks are typed from end to end: a type checker, run as strictly as users may, finds the wrong ones.

A line of the program below that is wrong ends in ``# error:`` and the code of the error; no other line may have one.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mypy import api

from tests.architecture.tree import ROOT, report

PROGRAM = """
from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import assert_type

import millstream as ms

app = ms.App("typed")


class Connection: ...


def connect() -> Iterator[Connection]:
    yield Connection()


@contextmanager
def managed() -> Iterator[Connection]:
    yield Connection()


async def aconnect() -> AsyncIterator[Connection]:
    yield Connection()


async def afetch() -> Connection:
    return Connection()


@app.task
def add(a: int, b: int = 2) -> str:
    return str(a + b)


@app.task(retries=3, queue="mail")
async def shout(text: str, *, loud: bool = False) -> str:
    return text.upper()


@app.task(bind=True)
def load(self: ms.BoundTask, url: str) -> bytes:
    self.update_state(meta={"url": url})
    return url.encode()


@app.task
def save(number: int, db: Connection = ms.Depends(connect)) -> None: ...


@app.task(batch=ms.Batch(max=5))
def index(docs: list[int]) -> list[str | Exception]:
    return [str(doc) for doc in docs]


@app.task(batch=ms.Batch(), bind=True)
async def aindex(self: ms.BoundBatch, docs: list[str]) -> None: ...


assert_type(add(1), str)
assert_type(add.delay(1, b=3), ms.AsyncResult[str])
assert_type(add.delay(1).get(), str)
assert_type(add.s(1), ms.Signature[str])
assert_type(add.si(1).set(priority=3).delay().get(timeout=1), str)
assert_type(add.apply_async((1,), {"b": 2}, countdown=3, queue="x").get(), str)
assert_type(add.map([1, 2]), list[ms.AsyncResult[str]])
assert_type(add.enqueue_many(add.s(n) for n in range(3)), list[ms.AsyncResult[str]])
add.delay("1")  # error: arg-type
add.delay()  # error: call-arg
add.delay(1, c=2)  # error: call-arg
add.s(None)  # error: arg-type
add.si(1, 2, 3)  # error: call-arg
add.apply_async((1,), priority="high")  # error: arg-type
add.apply_async((1,), delay=3)  # error: call-arg
add("1")  # error: arg-type

assert_type(shout.delay("a", loud=True).get(), str)
shout.delay("a", True)  # error: call-arg
shout.delay(b"a")  # error: arg-type


async def calls() -> None:
    assert_type(await shout("a"), str)
    assert_type(await add.adelay(1), ms.AsyncResult[str])
    assert_type(await (await shout.adelay("a")), str)
    assert_type(await add.aapply_async((1,)), ms.AsyncResult[str])
    await add.adelay("1")  # error: arg-type
    await index([1])  # error: misc
    assert_type(await aindex(["a"]), object)  # error: assert-type


assert_type(load.delay("u").get(), bytes)
assert_type(load("u"), bytes)
load.delay(1)  # error: arg-type

save.delay(1)
save(1, db=Connection())
save.delay("1")  # error: arg-type
save(1, db=3)  # error: arg-type

assert_type(index.delay(1).get(), str)
assert_type(index.s(1), ms.Signature[str])
index([1, 2])
index.delay([1])  # error: arg-type
index.delay(1, 2)  # error: call-arg
index.delay("1")  # error: arg-type
index(1)  # error: arg-type
assert_type(aindex.delay("a"), ms.AsyncResult[None])
aindex.delay(1)  # error: arg-type

assert_type(ms.Depends(connect), Connection)
assert_type(ms.Depends(managed), Connection)
assert_type(ms.Depends(aconnect), Connection)
assert_type(ms.Depends(afetch), Connection)
assert_type(ms.Depends(Connection, scope="worker"), Connection)
ms.Depends(connect, scope="request")  # error: call-overload


@app.task
def wrong(n: int, db: Connection = ms.Depends(add)) -> None: ...  # error: assignment


app.task(retry=3)  # error: call-overload


@app.task(batch=ms.Batch())  # error: arg-type
def no_list(doc: int) -> None: ...
"""
ERROR = re.compile(r"typed\.py:(\d+): error: .*\[([\w-]+)\]$")
WANTED = re.compile(r"# error: ([\w-]+)$")


def test_a_type_checker_finds_wrong_calls_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "typed.py"
    program.write_text(PROGRAM, "utf-8")
    # The project's own settings, which are strict, and so what it has looked at already.
    monkeypatch.chdir(ROOT)
    out, problems, _ = api.run(
        ["--config-file", "pyproject.toml", "--no-error-summary", str(program)]
    )
    assert not problems, problems
    found = {(int(m[1]), m[2]) for line in out.splitlines() if (m := ERROR.search(line))}
    lines = enumerate(PROGRAM.splitlines(), start=1)
    wanted = {(number, m[1]) for number, line in lines if (m := WANTED.search(line))}
    assert len(wanted) > 20
    report("mypy says", sorted(f"{number}: {code}" for number, code in found ^ wanted) and [out])
