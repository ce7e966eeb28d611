"""Learning in flows: a model is declared once; ``fit`` trains it with each row that passes, ``predict`` asks it.

    rows        r1 … r100 │ r101 … r200 │ r201 …          ``chunk_rows=100``
    predicted   by nothing  by the model   by the model
                            of chunk 1     of chunks 1, 2
    learned              ●             ●

A row is predicted before it is learned, with what the whole chunks before it taught ("test, then train"). Chunks are
counted from the model's first row, and not from where a micro-batch, a crash or a restart cut the stream: a stream
gives the predictions, and the model, that a batch over the same rows in the same order gives.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import pyarrow as pa

from millstream.flows.inference import column_kind
from millstream.flows.kinds import BOOLEAN, FLOAT, INTEGER, TEXT
from millstream.flows.models import Estimator, ModelStore
from millstream.flows.steps import field_of
from millstream.primitives.errors import PlanError

Label: TypeAlias = str | int | bool
"""A class of a classifier."""
Proba: TypeAlias = tuple[tuple[str, Label], ...]
"""Columns, and the class whose probability each of them gets."""

_NUMBERS: Final = (INTEGER, FLOAT, BOOLEAN)
_CLASSES: Final = {str: TEXT, int: INTEGER, bool: BOOLEAN}
_CLASSIFIERS: Final = {"ClassifierMixin", "Classifier"}
_CLUSTERERS: Final = {"ClusterMixin", "Clusterer"}
_ADDRESS: Final = re.compile(r" at 0x[0-9a-f]+")


@dataclass(frozen=True, eq=False)
class Model:
    """A model that flows train and ask: its name in the store, an estimator nobody has trained, and its columns.

    ``estimator`` is of scikit-learn (anything with ``partial_fit`` and ``predict``; in a ``Pipeline`` every step has
    ``partial_fit`` or needs none) or of river (``learn_one`` and ``predict_one``). It is copied and never changed.
    ``classes`` are all the values that a classifier's target can have: texts, integers or booleans.

    The model learns ``chunk_rows`` rows at a time. A version of it is kept after each ``version_rows`` rows that it
    has learned, and at the end of bounded input; of versions the last ``keep`` stay. ``window_rows`` is how many rows
    each of its error figures is about.
    """

    name: str
    estimator: Estimator
    features: Sequence[str]
    target: str
    classes: Sequence[str] | Sequence[int] | Sequence[bool] | None = None
    chunk_rows: int = 100
    version_rows: int = 10_000
    keep: int = 10
    window_rows: int = 1_000

    def __post_init__(self) -> None:
        """Raise PlanError for what cannot be a model, with the part named."""
        where = f"ms.Model({self.name!r})"
        _refuse_types(self, where)
        object.__setattr__(self, "features", tuple(self.features))
        if not self.features or len({*self.features, self.target}) <= len(self.features):
            raise PlanError(
                f"features={list(self.features)}, target={self.target!r}",
                where=where,
                expected="at least one feature, and different columns, the target not among them",
                next_step="name each column once",
            )
        _refuse_unteachable(self.estimator, where)
        _refuse_classes(self, where)

    @property
    def kind(self) -> pa.DataType:
        """The type of a prediction: that of the classes, or a float."""
        return FLOAT if self.classes is None else _CLASSES[type(self.classes[0])]

    def place_of(self, label: Label) -> int:
        """Return which of the classes it is."""
        assert self.classes is not None, "it is a class"
        return [*self.classes].index(label)

    @property
    def is_river(self) -> bool:
        """Whether it learns events one by one, as dicts."""
        return not (is_pipeline(self.estimator) or hasattr(self.estimator, "partial_fit"))

    def declaration(self) -> dict[str, Any]:
        """Return what must stay the same while there is a trained model of that name."""
        return {
            "estimator": estimator_text(self.estimator),
            "features": list(self.features),
            "target": self.target,
            "classes": None if self.classes is None else list(self.classes),
            "chunk_rows": self.chunk_rows,
        }

    def text(self) -> str:
        """Return the canonical text."""
        kind = type(self.estimator).__qualname__
        return f"{self.name}: {kind}, {self.target} of {', '.join(self.features)}"

    def check(self, schema: pa.Schema, *, learns: bool, where: str) -> None:
        """Raise PlanError for columns that are not there or of a type that the estimator cannot take."""
        for name in self.features:
            kind = column_kind(name, schema, where=where)
            if kind in _NUMBERS or (kind == TEXT and self.is_river):
                continue
            raise PlanError(
                f"feature {name!r} is {kind}",
                where=where,
                expected="numbers or booleans" + (", or texts" if self.is_river else ""),
                next_step=f"compute numbers first, as in with_columns(is_x=ms.col({name!r}) == …), or cast it",
            )
        if not learns:
            return
        kind = column_kind(self.target, schema, where=where)
        wanted = (INTEGER, FLOAT) if self.classes is None else (self.kind,)
        if kind not in wanted:
            raise PlanError(
                f"the target {self.target!r} is {kind}",
                where=where,
                expected=" or ".join(map(str, wanted)),
                next_step="cast it"
                if self.classes is None
                else "name the classes as the column has them",
            )


@dataclass(frozen=True)
class Fit:
    """Trains a model with each row; passes the rows on, with the predictions made before."""

    model: Model
    into: str | None
    proba: Proba = ()
    name: str = field(default="fit", init=False)
    time: str | None = field(default=None, init=False)
    late_us: int = field(default=0, init=False)
    keep_late: bool = field(default=False, init=False)

    def keeping_late(self) -> Fit:
        """Return it: without a time nothing is late."""
        return self

    def text(self) -> str:
        """Return the canonical text."""
        return f"fit({self.model.text()}{_into(self.into, self.proba)})"

    def kept_text(self) -> str:
        """Return what must not change while there is state: the store knows the model itself."""
        return f"fit({self.model.name})"

    def output(self, schema: pa.Schema, *, where: str) -> pa.Schema:
        """Return the schema, with the prediction if there is one."""
        self.model.check(schema, learns=True, where=where)
        return _with(schema, self.into, self.proba, self.model, where)


@dataclass(frozen=True)
class Predict:
    """Adds what a model predicts for each row."""

    model: Model
    into: str | None
    proba: Proba
    version: int | None
    models: ModelStore = field(compare=False, repr=False)
    name: str = field(default="predict", init=False)

    def text(self) -> str:
        """Return the canonical text."""
        pinned = "" if self.version is None else f", version={self.version}"
        return f"predict({self.model.text()}{pinned}{_into(self.into, self.proba)})"

    def output(self, schema: pa.Schema, *, where: str) -> pa.Schema:
        """Return the schema with the prediction."""
        self.model.check(schema, learns=False, where=where)
        if self.version is not None and self.version < 1:
            raise PlanError(
                f"version={self.version}",
                where=where,
                expected="a version, counted from 1",
                next_step="leave it out for the newest; `millstream models NAME` lists them",
            )
        return _with(schema, self.into, self.proba, self.model, where)


def proba_of(model: Model, proba: Mapping[str, Label] | None, *, where: str) -> Proba:
    """Return which columns get the probability of which class. Raises PlanError for what a model cannot tell."""
    if proba is None:
        return ()
    if not _names_columns(proba):
        raise PlanError(
            f"proba={proba!r}",
            where=where,
            expected="columns, and the class whose probability each of them gets",
            next_step='for example proba={"p_late": True}',
        )
    if model.classes is None:
        raise PlanError(
            f"{model.name!r} predicts numbers, which have no probabilities",
            where=where,
            expected="a model with classes=",
            next_step="leave out proba=",
        )
    if not tells_probabilities(model.estimator):
        raise PlanError(
            f"{type(last_step(model.estimator)).__qualname__} tells no probabilities",
            where=where,
            expected="predict_proba, as scikit-learn has it, or predict_proba_one, as river has",
            next_step="leave out proba=, or choose another estimator, as SGDClassifier(loss='log_loss')",
        )
    kind = type(model.classes[0])
    for label in proba.values():
        if type(label) is not kind or label not in model.classes:
            raise PlanError(
                f"{label!r} is none of the model's classes",
                where=where,
                expected=f"of {list(model.classes)}",
                next_step="name a class as classes= of the model does",
            )
    return tuple(proba.items())


def tells_probabilities(estimator: Estimator) -> bool:
    """Return whether it says how probable each class is; some of river have the method and only raise."""
    if is_pipeline(estimator) or hasattr(estimator, "partial_fit"):
        return hasattr(estimator, "predict_proba")
    return overrides(estimator, "predict_proba_one")


def overrides(estimator: Estimator, method: str) -> bool:
    """Return whether what predicts has the method from another class than river's base of classifiers."""
    makers = [kind for kind in type(last_step(estimator)).__mro__ if method in vars(kind)]
    return bool(makers) and makers[0].__module__ != "river.base.classifier"


def estimator_text(estimator: Estimator) -> str:
    """Return class and parameters as a text that is the same in every process."""
    kind = type(estimator)
    if hasattr(estimator, "get_params"):
        params = estimator.get_params()
        told = ", ".join(f"{name}={_plain(value)}" for name, value in sorted(params.items()))
    else:
        told = repr(estimator)
    return _ADDRESS.sub("", f"{kind.__module__}.{kind.__qualname__}({told})")


def last_step(estimator: Estimator) -> Estimator:
    """Return what predicts: of a pipeline its last step."""
    steps = getattr(estimator, "steps", None)
    if isinstance(steps, dict) and steps:
        return [*steps.values()][-1]
    if isinstance(steps, list) and steps:
        return steps[-1][1]
    return estimator


def is_pipeline(estimator: Estimator) -> bool:
    """Return whether it is a pipeline of scikit-learn: (name, step) pairs."""
    return isinstance(getattr(estimator, "steps", None), list)


def _plain(value: object) -> str:
    return estimator_text(value) if hasattr(value, "get_params") else repr(value)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _names_columns(value: object) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(map(_is_name, value))


def _into(into: str | None, proba: Proba) -> str:
    told = ", ".join(f"{name}: {label!r}" for name, label in proba)
    return ("" if into is None else f", into={into}") + (f", proba={{{told}}}" if told else "")


def _with(schema: pa.Schema, into: str | None, proba: Proba, model: Model, where: str) -> pa.Schema:
    added = [] if into is None else [(into, model.kind)]
    for name, kind in [*added, *((name, FLOAT) for name, _ in proba)]:
        if name in schema.names:
            raise PlanError(
                f"column {name!r} is there already",
                where=where,
                expected="another name for the prediction",
                next_step='for example into="predicted"',
            )
        schema = schema.append(field_of(name, kind, where))
    return schema


def _refuse_types(model: Model, where: str) -> None:
    """Raise PlanError for parts of a declaration that are of another type than it says."""
    for option, value in (("name", model.name), ("target", model.target)):
        if not _is_name(value):
            raise PlanError(
                f"a model without a {option}: {value!r}",
                where=where,
                expected="a text that is not empty",
                next_step='for example ms.Model("arrival_delay", estimator, features=["hour"], target="minutes")',
            )
    if not _is_listed(model.features) or not all(map(_is_name, model.features)):
        raise PlanError(
            f"features={model.features!r}",
            where=where,
            expected="a list of the names of columns",
            next_step='for example features=["hour"], also for one',
        )
    if model.classes is not None and not _is_listed(model.classes):
        raise PlanError(
            f"classes={model.classes!r}",
            where=where,
            expected="a list of all the values that the target can have",
            next_step="for example classes=[False, True]",
        )
    for option in ("chunk_rows", "version_rows", "keep", "window_rows"):
        value = getattr(model, option)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise PlanError(
                f"{option}={value!r}",
                where=where,
                expected="a whole number of at least 1",
                next_step="leave it out for the default",
            )


def _is_listed(value: object) -> bool:
    """Return whether it has an order, and is no single text."""
    return isinstance(value, Iterable) and not isinstance(value, str | bytes | set | frozenset)


def _refuse_unteachable(estimator: Estimator, where: str) -> None:
    if isinstance(estimator, type):
        raise PlanError(
            f"{estimator.__qualname__} is a class",
            where=where,
            expected="an estimator",
            next_step=f"write {estimator.__qualname__}()",
        )
    if {kind.__name__ for kind in type(last_step(estimator)).__mro__} & _CLUSTERERS:
        raise PlanError(
            f"{type(last_step(estimator)).__qualname__} finds clusters and learns no target",
            where=where,
            expected="an estimator that predicts a target: a regressor or a classifier",
            next_step="for example SGDRegressor or SGDClassifier; clusters can be kept by key_by(…).process(…)",
        )
    if is_pipeline(estimator):
        for name, step in estimator.steps[:-1]:
            if step != "passthrough" and not (hasattr(step, "partial_fit") or _is_stateless(step)):
                raise _not_stepwise(
                    f"step {name!r} of the pipeline, {type(step).__qualname__},", where
                )
        learner = last_step(estimator)
        if not hasattr(learner, "partial_fit") or not hasattr(learner, "predict"):
            raise _not_stepwise(f"the last step, {type(learner).__qualname__},", where)
        return
    learns = hasattr(estimator, "partial_fit") and hasattr(estimator, "predict")
    if not learns and not (hasattr(estimator, "learn_one") and hasattr(estimator, "predict_one")):
        raise _not_stepwise(f"{type(estimator).__qualname__}", where)


def _is_stateless(step: Estimator) -> bool:
    tags = getattr(step, "__sklearn_tags__", None)
    return tags is not None and not tags().requires_fit


def _not_stepwise(what: str, where: str) -> PlanError:
    return PlanError(
        f"{what} cannot learn a part at a time",
        where=where,
        expected="partial_fit and predict, as scikit-learn has them, or learn_one and predict_one, as river has",
        next_step="for example SGDRegressor, SGDClassifier, MLPRegressor, GaussianNB or StandardScaler of "
        "scikit-learn, or any model of river",
    )


def _refuse_classes(model: Model, where: str) -> None:
    kinds = {kind.__name__ for kind in type(last_step(model.estimator)).__mro__}
    classifies = bool(kinds & _CLASSIFIERS)
    if model.classes is None:
        if classifies:
            raise PlanError(
                "a classifier must know its classes before the first row",
                where=where,
                expected="classes=, all the values that the target can have",
                next_step="for example classes=[False, True]",
            )
        return
    object.__setattr__(model, "classes", tuple(model.classes))
    types = {type(value) for value in model.classes}
    if len(types) != 1 or not types <= {*_CLASSES} or len(set(model.classes)) < 2:
        raise PlanError(
            f"classes={list(model.classes)}",
            where=where,
            expected="at least two different texts, integers or booleans",
            next_step="for example classes=[False, True]",
        )
    if "RegressorMixin" in kinds or "Regressor" in kinds:
        raise PlanError(
            f"{type(last_step(model.estimator)).__qualname__} predicts numbers, not classes",
            where=where,
            expected="no classes=, or a classifier",
            next_step="leave out classes=",
        )
