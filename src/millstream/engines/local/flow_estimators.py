"""Estimators of scikit-learn and of river behind one face: predict rows, then learn them.

Nothing of scikit-learn is imported: an estimator brings its library. Of river only the detector of drifts is, if it is
installed.
"""

from __future__ import annotations

import copy
import importlib.util
import math
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from millstream.flows.learning import Model, is_pipeline, last_step, overrides, tells_probabilities
from millstream.flows.models import Estimator
from millstream.primitives.errors import StepError

Rows: TypeAlias = Any
"""Features of rows: a matrix for scikit-learn, dicts for river. Both can be sliced, and chosen from by ``chosen``."""

_PACKAGES: Final = {"sklearn": "scikit-learn", "river": "river"}


class Learner:
    """An estimator that is being trained. Belongs to one thread; asking it changes nothing."""

    def __init__(self, model: Model, estimator: Estimator, *, where: str) -> None:
        """``estimator`` is a copy of the model's, trained or not; errors name ``where``."""
        self._model = model
        self.estimator = estimator
        self._where = where
        self._classes = model.classes or ()
        self._tells = model.classes is not None and tells_probabilities(estimator)
        # What river's own class predicts is the most probable one: it is asked once then.
        self._derives = self._tells and model.is_river and not overrides(estimator, "predict_one")
        self._learns_many = model.is_river and model.chunk_rows > 1 and _takes_many(estimator)

    def rows(self, frame: pl.DataFrame) -> Rows:
        """Return the features of complete rows as the estimator takes them."""
        features = frame.select(self._model.features)
        if self._model.is_river:
            return features.to_dicts()
        return np.ascontiguousarray(features.cast(pl.Float64).to_numpy())

    def predict(self, rows: Rows, *, first: int, room: int) -> list[Any]:
        """Return what is predicted for the rows, which stand at ``first`` of a chunk of ``room`` rows.

        Sums of floats depend, in their last digits, on where in a matrix a row stands. So a row stands where it does in
        its whole chunk, however few of it have come, and is predicted the same number whatever the cut.
        """
        if not len(rows):
            return []
        with self._errors("predict"):
            if self._model.is_river:
                return [self._plain(self.estimator.predict_one(row)) for row in rows]
            matrix = _placed(rows, first, room)
            said = np.asarray(self.estimator.predict(matrix)).reshape(len(matrix), -1)
            if said.shape[1] != 1:
                raise ValueError(f"it predicts {said.shape[1]} numbers for each row")
            return [self._plain(value) for value in said[first : first + len(rows), 0].tolist()]

    def predict_both(
        self, rows: Rows, *, first: int, room: int
    ) -> tuple[list[Any], list[list[float]] | None]:
        """Return what is predicted, and how probable each class is, in the order of the model's; NaN: not told.

        The second is None if the estimator tells no probabilities at all. Rows stand as in ``predict``.
        """
        if self._derives and len(rows):
            with self._errors("predict"):
                told = [self.estimator.predict_proba_one(row) for row in rows]
                said = [max(each, key=each.get) if each else None for each in told]
                return [*map(self._plain, said)], [*map(self._in_order, told)]
        values = self.predict(rows, first=first, room=room)
        return values, self._probabilities(rows, first, room) if self._tells else None

    def _probabilities(self, rows: Rows, first: int, room: int) -> list[list[float]] | None:
        if not len(rows):
            return []
        with self._errors("tell probabilities"):
            if self._model.is_river:
                try:
                    return [self._in_order(self.estimator.predict_proba_one(row)) for row in rows]
                except NotImplementedError:
                    return None
            labels = getattr(last_step(self.estimator), "classes_", None)
            if labels is None:
                return None
            matrix = np.asarray(self.estimator.predict_proba(_placed(rows, first, room)))
            places = {self._plain(label): at for at, label in enumerate(labels.tolist())}
            missing = np.zeros(len(rows))
            columns = [
                matrix[first : first + len(rows), places[label]] if label in places else missing
                for label in self._classes
            ]
            found: list[list[float]] = np.column_stack(columns).astype(np.float64).tolist()
            return found

    def _in_order(self, told: Mapping[Any, float]) -> list[float]:
        """Return river's probabilities in the order of the classes; one that it has not seen yet has none."""
        known = {self._plain(label): probability for label, probability in told.items()}
        is_told = not known.keys().isdisjoint(self._classes)
        return [float(known.get(label, 0.0)) if is_told else math.nan for label in self._classes]

    def learn(self, rows: Rows, targets: list[Any]) -> None:
        """Learn a chunk."""
        with self._errors("learn"):
            if self._learns_many:
                self.estimator.learn_many(
                    pl.DataFrame(rows), pl.Series(self._model.target, targets)
                )
            elif self._model.is_river:
                for row, target in zip(rows, targets, strict=True):
                    self.estimator.learn_one(row, target)
            else:
                self._partial_fit(rows, np.asarray(targets))

    def _partial_fit(self, matrix: npt.NDArray[np.float64], targets: npt.NDArray[Any]) -> None:
        learner = last_step(self.estimator)
        if is_pipeline(self.estimator):
            for _, step in self.estimator.steps[:-1]:
                if step == "passthrough":
                    continue
                if hasattr(step, "partial_fit"):
                    step.partial_fit(matrix)
                matrix = step.transform(matrix)
        if self._model.classes is None:
            learner.partial_fit(matrix, targets)
        else:
            learner.partial_fit(matrix, targets, classes=np.asarray(self._model.classes))

    def _plain(self, value: Estimator) -> Estimator:
        if value is None:
            return None
        return float(value) if self._model.classes is None else type(self._model.classes[0])(value)

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise StepError(
                f"{type(self.estimator).__qualname__} cannot {doing}: {type(error).__name__}: {error}",
                where=self._where,
                expected="an estimator that can deal with each row whose features are all there and finite",
                next_step="scale the features, or choose another estimator; nothing of this batch was stored",
            ) from error


def untold(model: Model, where: str) -> StepError:
    """Return the error of an estimator that has the method, and yet tells no probabilities."""
    return StepError(
        f"{type(last_step(model.estimator)).__qualname__} tells no probabilities",
        where=where,
        expected="predict_proba with classes_, as scikit-learn has them, or predict_proba_one, as river has",
        next_step="leave out proba=, or choose another estimator",
    )


def spread(values: pl.Series, which: pl.Series) -> pl.Series:
    """Return values at the rows that are true in ``which``, and nulls at the others."""
    if len(values) == len(which):
        return values
    rows = pl.DataFrame({"row": which.arg_true(), "value": values})
    every = pl.DataFrame({"row": pl.int_range(len(which), dtype=pl.get_index_type(), eager=True)})
    return every.join(rows, on="row", how="left", maintain_order="left")["value"]


def _placed(rows: Rows, first: int, room: int) -> npt.NDArray[np.float64]:
    """Return a matrix in which the rows stand at ``first``."""
    matrix: npt.NDArray[np.float64] = np.zeros((max(room, first + len(rows)), rows.shape[1]))
    matrix[first : first + len(rows)] = rows
    return matrix


def chosen(rows: Rows, which: npt.NDArray[np.bool_]) -> Rows:
    """Return some of the rows."""
    if isinstance(rows, list):
        return [row for row, is_one in zip(rows, which, strict=True) if is_one]
    return rows[which]


def joined(parts: list[Rows]) -> Rows:
    """Return the rows of several parts as one."""
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], list):
        return [row for part in parts for row in part]
    return np.concatenate(parts)


def untrained(model: Model) -> Estimator:
    """Return a copy of the model's estimator, for which chance is the same each time.

    Where scikit-learn would draw from the process's generator (``random_state=None``), the copy has the seed 0.
    """
    estimator = copy.deepcopy(model.estimator)
    if hasattr(estimator, "get_params") and hasattr(estimator, "set_params"):
        params: Mapping[str, Any] = estimator.get_params()
        seeds = {
            name: 0
            for name, value in params.items()
            if value is None and name.rpartition("__")[2] == "random_state"
        }
        if seeds:
            estimator.set_params(**seeds)
    return estimator


def library_of(estimator: Estimator) -> str:
    """Return the libraries that the estimator's classes come from, with their versions."""
    parts = [estimator, last_step(estimator)]
    roots = {kind.__module__.partition(".")[0] for part in parts for kind in type(part).__mro__}
    known = sorted(_PACKAGES[root] for root in roots & {*_PACKAGES})
    return ", ".join(f"{name} {_version(name)}" for name in known) or "of your own"


def drift_detector(stored: tuple[str, bytes] | None = None) -> Estimator:
    """Return river's ADWIN (A. Bifet, R. Gavaldà: Learning from time-changing data, 2007), or None without river.

    It goes on from what ``stored_detector`` gave, unless another river made that.
    """
    if importlib.util.find_spec("river") is None:
        return None
    from river.drift import ADWIN

    if stored is not None and stored[0] == _version("river"):
        return pickle.loads(stored[1])
    detector: Estimator = ADWIN
    return detector()


def stored_detector(detector: Estimator) -> tuple[str, bytes] | None:
    """Return a detector as it is kept, with the version of river that made it."""
    return None if detector is None else (_version("river"), pickle.dumps(detector, protocol=5))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "of unknown version"


def _takes_many(estimator: Estimator) -> bool:
    """Return whether river says that each part of it learns several rows at once."""
    steps = getattr(estimator, "steps", None)
    parts = [*steps.values()] if isinstance(steps, dict) else [estimator]
    return all(
        any(kind.__name__.startswith("MiniBatch") for kind in type(part).__mro__) for part in parts
    )
