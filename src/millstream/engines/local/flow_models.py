"""Models in the catalog: who trains which, its versions, and the rows that it has learned since the newest.

A model is the version it builds on, a pickle with its CRC32C, and the rows that were learned since, in a log. A commit
appends rows; a version takes the log's place. Learning the log again gives the model, so a commit is as large as the
rows that it learned, however large the model is.

A pickle is code. Only what this store wrote is loaded: its checksum, the class and parameters of the estimator and the
versions of its libraries must be those of the declaration, and are compared before a byte of it is read.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Final

import crc32c
import polars as pl

from millstream.engines.local.flow_estimators import library_of
from millstream.engines.local.flow_meter import figures_bytes
from millstream.engines.local.flow_state import Blob, decoded
from millstream.flows.learning import Model, estimator_text
from millstream.flows.models import Estimator, ModelFigures
from millstream.primitives.codec import decode, encode
from millstream.primitives.errors import (
    ConfigurationError,
    Fenced,
    PlanError,
    StepError,
    StoreCorrupt,
)
from millstream.store import Snapshot, Store, Transaction

MODEL_BYTES_MAX: Final = 256 * 1024 * 1024
"""A version of a model has at most so many bytes."""

_PARTS: Final = re.compile(r"[(\n]|, ")
_PART_BYTES: Final = 1024 * 1024


@dataclass(frozen=True)
class Stored:
    """A model as a run finds it: the state of the version it builds on (None before the first), and its log."""

    revision: int
    state: Any
    log: tuple[pl.DataFrame, ...]


@dataclass(frozen=True)
class Owned:
    """A model that this process may train."""

    model_id: int
    epoch: int
    model: Model


@dataclass(frozen=True)
class Taught:
    """What one commit changes of a model."""

    revision: int
    rows: int
    waiting: int
    unlabelled: int
    incomplete: int
    figures: ModelFigures
    log: tuple[Blob, ...] = ()
    replaces_log: bool = False
    version: bytes | None = field(default=None, repr=False)


def own(store: Store, model: Model, flow: str) -> Owned:
    """Take a model over, made if it is new. One transaction.

    Raises Fenced when a living process trains it, PlanError when it was declared otherwise.
    """
    while True:
        seen = store.look("models/get", (model.name,))
        for _, _, library, declaration, _, owner, *_, trainer in seen:
            if owner is not None and store.is_alive(owner):
                here = " in this process" if owner == store.process else ""
                raise being_trained(store, model.name, f"{trainer!r}{here}")
            refuse_other(model, library, declaration)
        owned = store.write(_owning(store.process, model, flow, seen))
        if owned is not None:
            return owned


def _owning(
    process: str, model: Model, flow: str, seen: list[tuple[Any, ...]]
) -> Callable[[Transaction], Owned | None]:
    """Return the transaction; it gives None if another process was faster than ``seen``."""

    def work(tx: Transaction) -> Owned | None:
        now = tx.run("models/get", (model.name,))
        if [row[:6] for row in now] != [row[:6] for row in seen]:
            return None
        if now:
            model_id = now[0][0]
            taking = {"owner": process, "flow": flow, "model_id": model_id}
            [[epoch]] = tx.run("models/take", taking)
            return Owned(model_id, epoch, model)
        values = {
            "name": model.name,
            "estimator": estimator_text(model.estimator),
            "library": library_of(model.estimator),
            "declaration": encode(model.declaration()),
            "owner": process,
            "figures": figures_bytes(ModelFigures()),
            "flow": flow,
            "now_us": tx.now_us,
        }
        [[model_id]] = tx.run("models/insert", values)
        return Owned(model_id, 1, model)

    return work


def being_trained(store: Store, name: str, by: str) -> Fenced:
    """Return the error of a model that a living process trains."""
    return Fenced(
        f"model {name!r} is being trained already, by flow {by}",
        where=str(store.path),
        expected="one run that trains a model",
        next_step="stop the other one, or give this model another name",
    )


def disown(store: Store, owned: Owned) -> None:
    """Give a model back, unless another process has it by now."""
    values = {"model_id": owned.model_id, "epoch": owned.epoch}
    store.write(lambda tx: tx.run("models/release", values))


def refuse_other(model: Model, library: str, declaration: bytes) -> None:
    """Raise PlanError, naming the difference, unless the stored model was declared so and made by these libraries."""
    before, now = decode(declaration), model.declaration()
    differences = [
        f"{name} was {old} and is now {new}"
        for name, value in now.items()
        if before.get(name) != value
        for old, new in [_different(name, str(before.get(name)), str(value))]
    ]
    here = library_of(model.estimator)
    if library != here:
        differences.append(f"it was made by {library}, and here is {here}")
    if differences:
        raise PlanError(
            f"model {model.name!r} is not the one in the store: {differences[0]}",
            where=f"model {model.name!r}",
            expected="the declaration and the libraries that it was trained with",
            next_step=f"install {library}, give the changed model another name, or forget the old one with "
            f"`millstream models {model.name} --delete`",
        )


def _different(name: str, before: str, now: str) -> tuple[str, str]:
    """Return two texts; of estimators, which may be long, the first parts that are not the same."""
    if name != "estimator":
        return before, now
    olds, news = (_PARTS.split(text) for text in (before, now))
    pairs = (
        (old.strip(), new.strip()) for old, new in zip_longest(olds, news, fillvalue="nothing")
    )
    return next((pair for pair in pairs if pair[0] != pair[1]), (before, now))


def load(store: Store, owned: Owned) -> Stored:
    """Return where training goes on from."""
    name = owned.model.name
    with store.read() as snapshot:
        [row] = snapshot.run("models/get", (name,))
        revision, version = row[6], row[7]
        where = f"{store.path}, model {name!r}"
        log = tuple(
            decoded(data, checksum, where)
            for _, checksum, data in snapshot.run("models/log", (owned.model_id,))
        )
        if version is None:
            return Stored(revision, None, log)
        return Stored(revision, _state(snapshot, owned.model_id, version, where), log)


def _state(snapshot: Snapshot, model_id: int, version: int, where: str) -> Estimator:
    for found, _, _, _, _, size_bytes, checksum in snapshot.run("models/versions", (model_id,)):
        if found == version:
            data = b"".join(part for (part,) in snapshot.run("models/parts", (model_id, version)))
            if len(data) != size_bytes or crc32c.crc32c(data) != checksum:
                raise StoreCorrupt(
                    f"version {version} of a model is damaged",
                    where=where,
                    expected=f"{size_bytes} bytes with CRC32C {checksum:#010x}",
                    next_step="roll back to another version with `millstream models`, or restore a copy",
                )
            return _unpickled(data, where)
    raise AssertionError(f"version {version} of model {model_id} is current and not kept")


def _unpickled(data: bytes, where: str) -> Estimator:
    try:
        return pickle.loads(data)
    except ImportError as error:
        raise ConfigurationError(
            f"the model's library is not installed: {error}",
            where=where,
            expected="the library that the model was made by",
            next_step="pip install millstream[learn]",
        ) from error


def complete(rows: pl.DataFrame, model: Model) -> pl.Series:
    """Return which rows have all features: none is null, NaN or infinite."""
    known = pl.lit(value=True)
    for name in model.features:
        known &= pl.col(name).is_not_null()
        if rows.schema[name].is_float():
            known &= pl.col(name).is_finite()
    return rows.select(pl.any_horizontal(known).alias(model.features[0]))[model.features[0]]


def pickled(state: Estimator, where: str) -> bytes:
    """Return a version's bytes. Raises StepError for an estimator that cannot be kept."""
    try:
        data = pickle.dumps(state, protocol=5)
    except Exception as error:
        raise StepError(
            f"the estimator cannot be pickled: {error}",
            where=where,
            expected="an estimator whose class and parts can be imported by name",
            next_step="define its functions and classes in a module, without lambdas",
        ) from error
    if len(data) > MODEL_BYTES_MAX:
        raise StepError(
            f"the model takes {len(data):,} bytes",
            where=where,
            expected=f"at most {MODEL_BYTES_MAX:,}",
            next_step="choose an estimator that does not grow so much",
        )
    return data


def teach(tx: Transaction, owned: Owned, taught: Taught) -> None:
    """Store what was learned in ``tx``. Raises Fenced if another process has taken over.

    After a rollback meanwhile nothing is stored: it forgets these rows as it forgets those before them.
    """
    model_id, model = owned.model_id, owned.model
    found = tx.run("models/check", {"model_id": model_id, "epoch": owned.epoch})
    if not found:
        raise Fenced(
            f"another process has taken over model {model.name!r}",
            where=f"epoch {owned.epoch}",
            expected="the newest epoch",
            next_step="let this process end; nothing of its last batch was stored",
        )
    if found[0][0] != taught.revision:
        return
    values = {
        "model_id": model_id,
        "rows": taught.rows,
        "waiting": taught.waiting,
        "unlabelled": taught.unlabelled,
        "incomplete": taught.incomplete,
        "figures": figures_bytes(taught.figures),
        "now_us": tx.now_us,
    }
    tx.run("models/advance", values)
    if taught.version is not None:
        _keep(tx, owned, taught.version, values)
    if taught.version is not None or taught.replaces_log:
        tx.run("models/log_clear", (model_id,))
    if taught.log and taught.version is None:
        tx.many("models/log_append", [(model_id, *blob) for blob in taught.log])


def _keep(tx: Transaction, owned: Owned, data: bytes, values: Mapping[str, Any]) -> None:
    """Add a version, make it the current one, and drop the oldest."""
    model_id = owned.model_id
    [[version]] = tx.run("models/number", (model_id,))
    told = {name: values[name] for name in ("model_id", "now_us", "rows", "waiting", "figures")}
    facts = {"version": version, "size_bytes": len(data), "checksum": crc32c.crc32c(data)}
    tx.run("models/version_insert", {**told, **facts})
    tx.many(
        "models/part_insert",
        [
            (model_id, version, data[at : at + _PART_BYTES])
            for at in range(0, len(data), _PART_BYTES)
        ],
    )
    tx.run("models/version_set", {"model_id": model_id, "version": version})
    kept = [row[0] for row in tx.run("models/versions", (model_id,))]
    if len(kept) > owned.model.keep:
        last = kept[-owned.model.keep - 1]
        gone = {"model_id": model_id, "last": last, "version": version}
        tx.run("models/versions_delete", gone)
        tx.run("models/parts_delete", gone)


def trained(
    store: Store, model: Model, *, version: int | None, where: str, known: Callable[[Any], bool]
) -> tuple[Any, Any] | None:
    """Return (identity, state) of a trained model; None if ``known`` says that it is known already.

    Raises StepError when there is no such version, PlanError when it was declared otherwise.
    """
    with store.read() as snapshot:
        rows = snapshot.run("models/get", (model.name,))
        current = rows[0][7] if rows else None
        wanted = current if version is None else version
        if rows and wanted is not None:
            [(model_id, _, library, declaration, *_)] = rows
            identity = (model_id, wanted)
            if known(identity):
                return None
            refuse_other(model, library, declaration)
            kept = [row[0] for row in snapshot.run("models/versions", (model_id,))]
            if wanted in kept:
                place = f"{store.path}, model {model.name!r}"
                return identity, _state(snapshot, model_id, wanted, place)
            what = f"model {model.name!r} has no version {wanted}: kept are {kept}"
        else:
            what = f"model {model.name!r} has no version yet"
    raise StepError(
        what,
        where=where,
        expected="a version that was made and is still kept",
        next_step="train it first: app.read(…).fit(model).run(); `millstream models` lists what there is",
    )
