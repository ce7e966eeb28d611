"""The models of one store: listed, asked, rolled back, deleted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl
import pyarrow as pa

from millstream.engines.local import flow_models
from millstream.engines.local.flow_estimators import Learner, spread, untold
from millstream.engines.local.flow_expression import dtype
from millstream.engines.local.flow_meter import figures_of
from millstream.flows.kinds import FLOAT
from millstream.flows.learning import Label, Model
from millstream.flows.models import Estimator, ModelStatus, ModelVersion
from millstream.primitives.errors import ConfigurationError
from millstream.store import Snapshot, Store, Transaction


class LocalModels:
    """See ``ModelStore``. Any thread may use it; the last version that was asked of each model is kept in memory."""

    def __init__(self, store: Store) -> None:
        """Bind the store; nothing is read."""
        self._store = store
        self._asked: dict[tuple[str, int | None], tuple[Any, Any]] = {}

    def all(self) -> list[ModelStatus]:
        """Return all models, by name."""
        return [
            ModelStatus(
                name=name,
                estimator=estimator,
                library=library,
                version=version,
                rows=rows,
                waiting=waiting,
                unlabelled=unlabelled,
                incomplete=incomplete,
                flow=flow,
                is_training=owner is not None and self._store.is_alive(owner),
                updated_us=updated_us,
                figures=figures_of(figures),
            )
            for (
                name, estimator, library, version, rows, waiting, unlabelled, incomplete, flow,
                owner, updated_us, figures,
            ) in self._store.look("models/all")
        ]  # fmt: skip

    def versions(self, name: str) -> list[ModelVersion]:
        """Return the versions that are kept, oldest first. Raises ConfigurationError for an unknown name."""
        with self._store.read() as snapshot:
            row = self._row(snapshot, name)
            return [
                ModelVersion(
                    version, made_us, rows, size_bytes, figures_of(figures), version == row[7]
                )
                for version, made_us, rows, _, figures, size_bytes, _ in snapshot.run(
                    "models/versions", (row[0],)
                )
            ]

    def rollback(self, name: str, version: int) -> None:
        """Make an older version the current one; see ``ModelStore``."""

        def work(tx: Transaction) -> None:
            row = self._row(tx, name)
            kept = {found[0]: found for found in tx.run("models/versions", (row[0],))}
            if version not in kept:
                raise ConfigurationError(
                    f"model {name!r} has no version {version}",
                    where=str(self._store.path),
                    expected=f"one of those that are kept: {', '.join(map(str, kept))}",
                    next_step=f"`millstream models {name}` lists them",
                )
            _, _, rows, waiting, figures, *_ = kept[version]
            values = {
                "model_id": row[0],
                "version": version,
                "rows": rows,
                "waiting": waiting,
                "figures": figures,
                "now_us": tx.now_us,
            }
            tx.run("models/rollback", values)
            tx.run("models/log_clear", (row[0],))

        self._store.write(work)

    def delete(self, name: str) -> None:
        """Forget a model with all its versions. Raises Fenced while it is trained, ConfigurationError for no model."""
        with self._store.read() as snapshot:
            row = self._row(snapshot, name)
        model_id, epoch, owner, trainer = row[0], row[4], row[5], row[12]
        if owner is not None and self._store.is_alive(owner):
            raise flow_models.being_trained(self._store, name, repr(trainer))

        def work(tx: Transaction) -> bool:
            if not tx.run("models/delete", {"model_id": model_id, "epoch": epoch}):
                return False
            # No version has the number 0.
            gone = {"model_id": model_id, "last": 2**62, "version": 0}
            tx.run("models/versions_delete", gone)
            tx.run("models/parts_delete", gone)
            tx.run("models/log_clear", (model_id,))
            return True

        if not self._store.write(work):
            raise flow_models.being_trained(self._store, name, repr(trainer))

    def estimator(self, model: Model, *, version: int | None = None) -> Estimator:
        """Return the trained estimator: the newest version, or one of them; see ``ModelStore``."""
        found = flow_models.trained(
            self._store,
            model,
            version=version,
            where=f"model {model.name!r}",
            known=lambda _: False,
        )
        assert found is not None
        return found[1][0]

    def predicted(
        self,
        model: Model,
        rows: pa.RecordBatch,
        *,
        version: int | None,
        where: str,
        proba: Sequence[Label] = (),
    ) -> list[pa.Array]:
        """Return what the newest version, or the one that is named, says of each row; see ``ModelStore``."""
        key = (model.name, version)
        trained = flow_models.trained(
            self._store,
            model,
            version=version,
            where=where,
            known=lambda identity: key in self._asked and self._asked[key][0] == identity,
        )
        if trained is not None:
            self._asked[key] = trained
        learner = Learner(model, self._asked[key][1][0], where=where)
        frame = pl.from_arrow(rows.select([*model.features]))
        assert isinstance(frame, pl.DataFrame)
        complete = flow_models.complete(frame, model)
        features = learner.rows(frame.filter(complete))
        told = None
        if proba:
            values, told = learner.predict_both(features, first=0, room=0)
        else:
            values = learner.predict(features, first=0, room=0)
        said = pl.Series(values, dtype=dtype(model.kind))
        found = [spread(said, complete).to_arrow().cast(model.kind)]
        if proba:
            if told is None:
                raise untold(model, where)
            for label in proba:
                at = model.place_of(label)
                column = pl.Series([row[at] for row in told], dtype=pl.Float64).fill_nan(None)
                found.append(spread(column, complete).to_arrow().cast(FLOAT))
        return found

    def _row(self, snapshot: Snapshot, name: str) -> tuple[Any, ...]:
        rows = snapshot.run("models/get", (name,))
        if not rows:
            names = [row[0] for row in snapshot.run("models/all")]
            raise ConfigurationError(
                f"there is no model {name!r}",
                where=str(self._store.path),
                expected=f"one of: {', '.join(names)}"
                if names
                else "a model that a flow has trained",
                next_step="train it first: app.read(…).fit(model).run()",
            )
        return rows[0]
