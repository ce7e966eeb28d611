"""Learning: the part of ``Flow`` that trains models and asks them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from millstream.flows.contract import FlowEngines
from millstream.flows.learning import Fit, Label, Model, Predict, proba_of
from millstream.flows.merging import JoinSource, UnionSource
from millstream.flows.plan import Plan
from millstream.flows.steps import Step
from millstream.primitives.errors import PlanError

if TYPE_CHECKING:
    from millstream.flows.flow import Flow


class FlowLearning:
    """What a flow can do with models."""

    plan: Plan
    engines: FlowEngines

    if TYPE_CHECKING:

        def _then(self, step: Step) -> Flow: ...

        def _where(self, step: str) -> str: ...

    def fit(
        self, model: Model, *, into: str | None = None, proba: Mapping[str, Label] | None = None
    ) -> Flow:
        """Train the model with each row, and pass the row on; with ``into`` also what was predicted before it.

        ``proba={"p_late": True}`` adds a column with the probability that a classifier gave to the class ``True``.

        Rows are learned in the order in which they come, ``chunk_rows`` at a time, and each is predicted before it is
        learned, so the predictions tell how good the model is (null before the first chunk). A row without a target is
        predicted and not learned; one with a feature that is null, NaN or infinite is neither; both are counted.

        What is learned becomes true in the commit that holds the flow's place and output. Killed at any moment and
        started again, the stream gives the same model and the same output. A batch goes on from what is learned, too,
        also without a sink, or from ``collect()``. One run trains a model at a time: another one is Fenced.

        Stands behind steps that look at single rows of one source; a stream needs no sink. Raises PlanError.
        """
        where = self._where("fit")
        _refuse_no_model(model, where)
        before = self.plan.first_stateful()
        if before is not None or isinstance(self.plan.source, UnionSource | JoinSource):
            what = "a union or a join of flows" if before is None else before.text()
            raise PlanError(
                f"fit stands behind {what}, which gives rows in no certain order",
                where=where,
                expected="steps that look at single rows of one source: the order decides what is learned",
                next_step="write that part to a topic, and fit what is read from it",
            )
        return self._then(Fit(model, into, proba_of(model, proba, where=where)))

    def predict(
        self,
        model: Model,
        *,
        into: str | None = "predicted",
        proba: Mapping[str, Label] | None = None,
        version: int | None = None,
    ) -> Flow:
        """Add what the model says of each row: null where a feature is null, NaN or infinite.

        ``proba={"p_late": True}`` adds a column with the probability that a classifier gives to the class ``True``;
        with ``into=None`` there is nothing else.

        The newest committed version is asked, or ``version``; a stream looks for a newer one at each micro-batch. The
        target need not be a column. Raises PlanError for what does not fit; a run raises StepError when the model has
        no such version yet.
        """
        where = self._where("predict")
        _refuse_no_model(model, where)
        told = proba_of(model, proba, where=where)
        if into is None and not told:
            raise PlanError(
                "predict adds no column",
                where=where,
                expected="into=, proba=, or both",
                next_step='for example into="predicted"',
            )
        models = self.engines.models
        if models is None:
            raise PlanError(
                "this engine keeps no models",
                where=where,
                expected="the embedded engine",
                next_step="open the app without batch= and stream=",
            )
        return self._then(Predict(model, into, told, version, models))


def _refuse_no_model(model: object, where: str) -> None:
    if not isinstance(model, Model):
        raise PlanError(
            f"{type(model).__qualname__} is no model",
            where=where,
            expected="what ms.Model(…) returns",
            next_step='declare it: ms.Model("name", estimator, features=[…], target="…")',
        )
