"""What is known of trained models: their versions, how far they have come, and how wrong they were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import pyarrow as pa

if TYPE_CHECKING:
    from millstream.flows.learning import Label, Model

Estimator: TypeAlias = Any
"""An object of scikit-learn, of river, or one that behaves so."""


@dataclass(frozen=True)
class ModelFigures:
    """How wrong predictions were that were made before their rows were learned (prequential error).

    Of numbers ``error`` is the mean absolute error and ``rmse`` the root of the mean squared one; of classes ``error``
    is the share that was wrong, and ``rmse`` is None. ``baseline`` is the error of always saying the mean, or the most
    frequent class, of what was learned before. ``recent`` is the error of each window of rows, the last 100 of them.

    ``log_loss`` is the mean of -ln(p), p being the probability that was given to the class the row has, not below
    2.2e-16; None for numbers, and for estimators that tell no probabilities.

    ``drifts`` counts how often the detector ADWIN (Bifet and Gavaldà, 2007, as river has it) found that the error has
    changed, ``drifted_at`` is the row at which it last did; both are None where river is not installed.
    """

    rows: int = 0
    error: float | None = None
    rmse: float | None = None
    baseline: float | None = None
    recent: tuple[float, ...] = ()
    drifts: int | None = None
    drifted_at: int | None = None
    log_loss: float | None = None

    def __str__(self) -> str:
        """Return the figures for people, in one line."""
        if self.error is None:
            return "nothing predicted yet"
        kind = "wrong" if self.rmse is None else "MAE"
        parts = [f"{kind} {self.error:.4g}"]
        if self.rmse is not None:
            parts.append(f"RMSE {self.rmse:.4g}")
        if self.log_loss is not None:
            parts.append(f"log loss {self.log_loss:.4g}")
        if self.baseline is not None:
            parts.append(f"baseline {self.baseline:.4g}")
        if self.recent:
            parts.append(f"last window {self.recent[-1]:.4g}")
        if self.drifts is not None:
            at = "" if self.drifted_at is None else f", last at row {self.drifted_at:,}"
            parts.append(f"{self.drifts} drifts{at}")
        return ", ".join(parts)


@dataclass(frozen=True)
class ModelVersion:
    """A model as it was kept. Times are UTC microseconds; ``rows`` is how many it had learned."""

    version: int
    made_us: int
    rows: int
    size_bytes: int
    figures: ModelFigures
    is_current: bool = False


@dataclass(frozen=True)
class ModelStatus:
    """A model in the store.

    ``version`` is the one that is asked, None before the first; ``rows`` were given to it in all, ``waiting`` of them
    wait for a whole chunk. ``unlabelled`` rows had no target and ``incomplete`` rows a feature that is null, NaN or
    infinite: neither was learned. ``flow`` trained it last, and ``is_training`` says whether a living process does now.
    """

    name: str
    estimator: str
    library: str
    version: int | None
    rows: int
    waiting: int
    unlabelled: int
    incomplete: int
    flow: str
    is_training: bool
    updated_us: int
    figures: ModelFigures


class ModelStore(Protocol):
    """The models of one store. Any thread may use it."""

    def all(self) -> list[ModelStatus]:
        """Return all models, by name."""

    def versions(self, name: str) -> list[ModelVersion]:
        """Return the versions that are kept, oldest first. Raises ConfigurationError for an unknown name."""

    def rollback(self, name: str, version: int) -> None:
        """Make an older version the one that is asked, and that training goes on from. One transaction.

        What was learned since is forgotten. A stream that trains the model goes on from that version with its next
        micro-batch; rows of the one it works on count as learned before. Raises ConfigurationError for a version that
        is not kept.
        """

    def delete(self, name: str) -> None:
        """Forget a model with all its versions. Raises Fenced while it is trained, ConfigurationError for no model."""

    def estimator(self, model: Model, *, version: int | None = None) -> Estimator:
        """Return the trained estimator: the newest version, or one of them.

        Raises StepError when there is none, PlanError when it was made by another class, library or declaration.
        """

    def predicted(
        self,
        model: Model,
        rows: pa.RecordBatch,
        *,
        version: int | None,
        where: str,
        proba: Sequence[Label] = (),
    ) -> list[pa.Array]:
        """Return what the newest version, or the one that is named, says of each row; null for incomplete rows.

        First what it predicts, then the probability of each class of ``proba``. Raises StepError.
        """


Figures = Mapping[str, ModelFigures]
