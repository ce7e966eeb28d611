"""How wrong predictions are that were made before their rows were learned: "test, then train"."""

from __future__ import annotations

import math
import sys
from collections import Counter
from dataclasses import asdict
from typing import Any, Final

from millstream.engines.local.flow_estimators import drift_detector, stored_detector
from millstream.flows.learning import Model
from millstream.flows.models import Estimator, ModelFigures
from millstream.primitives.codec import decode, encode

WINDOWS_MAX: Final = 100
"""So many windows of errors are remembered."""


PROBABILITY_MIN: Final = sys.float_info.epsilon
"""A class that was said to be impossible, and is there, counts as one of this probability: as in scikit-learn."""


class Meter:
    """The errors of one model, a whole chunk at a time. Each version keeps what ``stored`` gives."""

    def __init__(self, model: Model, state: dict[str, Any] | None = None) -> None:
        """Start with nothing, or with what ``stored`` gave."""
        self._classifies = model.classes is not None
        self._window_rows = model.window_rows
        self.state: dict[str, Any] = state or {
            "rows": 0,
            "error": 0.0,
            "square": 0.0,
            "baseline": 0.0,
            "labels": Counter() if self._classifies else [0, 0.0],
            "window": [0, 0.0],
            "recent": [],
            "adwin": None,
            "drifts": 0,
            "drifted_at": None,
        }
        # Versions that were kept before there was this figure do not have it.
        self.state = {"log_loss": 0.0, "log_rows": 0, **self.state}
        self.state = {**self.state, "adwin": drift_detector(self.state["adwin"])}

    def add(self, said: list[Any], targets: list[Any], likely: list[float]) -> None:
        """Count a chunk before it is learned; what was not predicted has no error.

        ``likely`` is how probable the class that a row has was said to be, NaN where that was not told.
        """
        pairs = [pair for pair in zip(said, targets, strict=True) if pair[0] is not None]
        state, usual = self.state, self._usual()
        for predicted, target in pairs:
            error = self._error(predicted, target)
            state["error"] += error
            state["square"] += error * error
            state["baseline"] += self._error(usual, target)
            self._add_one(error)
        told = [p for p in likely if not math.isnan(p)]
        losses = [-math.log(min(max(p, PROBABILITY_MIN), 1 - PROBABILITY_MIN)) for p in told]
        state["log_loss"] += math.fsum(losses)
        state["log_rows"] += len(losses)
        labels = state["labels"]
        if self._classifies:
            labels.update(targets)
        else:
            labels[0] += len(targets)
            labels[1] += math.fsum(targets)

    def stored(self) -> dict[str, Any]:
        """Return what a version keeps of it."""
        return {**self.state, "adwin": stored_detector(self.state["adwin"])}

    def figures(self) -> ModelFigures:
        """Return the figures so far."""
        state, rows = self.state, self.state["rows"]
        has_detector = state["adwin"] is not None
        drifts = state["drifts"] if has_detector else None
        if not rows:
            return ModelFigures(drifts=drifts)
        return ModelFigures(
            rows=rows,
            error=state["error"] / rows,
            rmse=None if self._classifies else math.sqrt(state["square"] / rows),
            baseline=state["baseline"] / rows,
            recent=tuple(state["recent"]),
            drifts=drifts,
            drifted_at=state["drifted_at"] if has_detector else None,
            log_loss=state["log_loss"] / state["log_rows"] if state["log_rows"] else None,
        )

    def _add_one(self, error: float) -> None:
        state = self.state
        state["rows"] += 1
        window = state["window"]
        window[0] += 1
        window[1] += error
        if window[0] >= self._window_rows:
            state["recent"] = [*state["recent"], window[1] / window[0]][-WINDOWS_MAX:]
            state["window"] = [0, 0.0]
        detector = state["adwin"]
        if detector is not None and math.isfinite(error):
            detector.update(error)
            if detector.drift_detected:
                state["drifts"] += 1
                state["drifted_at"] = state["rows"]

    def _error(self, predicted: float, target: float) -> float:
        return float(predicted != target) if self._classifies else abs(predicted - target)

    def _usual(self) -> Estimator:
        """Return what is most usual among what was learned: the mean, or the most frequent class."""
        labels = self.state["labels"]
        if self._classifies:
            return max(sorted(labels, key=str), key=lambda label: labels[label], default=None)
        return labels[1] / labels[0] if labels[0] else 0.0


def figures_bytes(figures: ModelFigures) -> bytes:
    """Return figures as they are stored."""
    return encode(asdict(figures))


def figures_of(data: bytes) -> ModelFigures:
    """Return stored figures."""
    told = decode(data)
    return ModelFigures(**{**told, "recent": tuple(told["recent"])})
