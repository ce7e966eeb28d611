"""``fit`` while it runs: a trainer of each model, as a stage of a stream and as a step of a batch.

Rows wait until they are a whole chunk; then the chunk is counted by the meter and learned. So when something is learned
does not depend on how the rows were cut into micro-batches, and neither does any prediction.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import compress
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from millstream.engines.local import flow_models
from millstream.engines.local.flow_estimators import (
    Learner,
    Rows,
    chosen,
    joined,
    spread,
    untold,
    untrained,
)
from millstream.engines.local.flow_expression import dtype, polars_schema
from millstream.engines.local.flow_meter import Meter
from millstream.engines.local.flow_models import Owned, Taught
from millstream.engines.local.flow_stages import TIMELY, Advanced, Clockless
from millstream.engines.local.flow_state import PARTIALS_MAX, Blob, encoded
from millstream.engines.local.flow_steps import steps_behind
from millstream.engines.local.flow_tally import Tally
from millstream.flows.learning import Fit, Model
from millstream.flows.merging import parts_of
from millstream.flows.models import ModelFigures
from millstream.flows.plan import Plan
from millstream.flows.watermark import TIME_MIN
from millstream.primitives.errors import StepError
from millstream.store import Store, Transaction

SAID: Final = "__ms_said"
"""What was predicted for a row that is to be learned."""
LIKELY: Final = "__ms_likely"
"""How probable the class that such a row has was said to be; NaN where that was not told."""

_UNTOLD: Final = pl.lit(math.nan).alias(LIKELY)


@dataclass
class Said:
    """What was said of rows: the prediction, how probable the class is that they have, and what the step asks for."""

    values: list[Any] = field(default_factory=list)
    likely: list[float] = field(default_factory=list)
    proba: list[list[float]] = field(default_factory=list)
    """For each row the probabilities of the classes that the step names, if it names some."""

    def add(self, other: Said) -> None:
        """Add what was said of the rows that follow."""
        self.values += other.values
        self.likely += other.likely
        self.proba += other.proba

    def part(self, start: int, end: int) -> Said:
        """Return what was said of some of the rows."""
        return Said(self.values[start:end], self.likely[start:end], self.proba[start:end])


@dataclass
class Waiting:
    """Rows that are not a whole chunk yet: features in parts, targets, and what was predicted of them."""

    parts: list[Rows] = field(default_factory=list)
    targets: list[Any] = field(default_factory=list)
    said: list[Any] = field(default_factory=list)
    likely: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Fill up what versions do not have that were kept before there was this figure."""
        self.likely = self.likely or [math.nan] * len(self.targets)

    def add(self, rows: Rows, targets: list[Any], said: Said, which: npt.NDArray[np.bool_]) -> None:
        """Add those rows that have a target."""
        values, likely = said.values, said.likely
        if not which.all():
            rows = chosen(rows, which)
            targets, values = [*compress(targets, which)], [*compress(values, which)]
            likely = [*compress(likely, which)]
        if targets:
            self.parts.append(rows)
            self.targets += targets
            self.said += values
            self.likely += likely


class Trainer:
    """One model while a run trains it. Belongs to one thread."""

    def __init__(
        self, store: Store, owned: Owned, step: Fit, where: str, *, commits_often: bool
    ) -> None:
        """Load what is learned so far.

        Unless it ``commits_often`` there is one commit at the end, which keeps a version: then no row is remembered for
        the log, and a rollback meanwhile is seen by that commit alone.
        """
        self._store = store
        self._commits_often = commits_often
        self._owned = owned
        self._where = where
        self.step = step
        self.model: Model = step.model
        self._load()

    def _load(self) -> None:
        """Take over the version that the model builds on, and learn again what was learned since."""
        model = self.model
        stored = flow_models.load(self._store, self._owned)
        self._revision = stored.revision
        self._waiting = Waiting()
        self._learned, estimator, meter = 0, untrained(model), None
        if stored.state is not None:
            estimator, meter, self._learned, waits = stored.state
            self._waiting = Waiting(*waits)
        self._learner = Learner(model, estimator, where=self._where)
        self._classes = {label: at for at, label in enumerate(model.classes or ())}
        self._asked = [model.place_of(label) for _, label in self.step.proba]
        self._meter = Meter(model, meter)
        self._since: list[pl.DataFrame] = []
        self._rows_since = 0
        self._log_blobs = len(stored.log)
        self._new: list[pl.DataFrame] = []
        self._unlabelled = self._incomplete = 0
        self._keeps = False
        for logged in stored.log:
            # The log of a store may be older than this column.
            rows = logged if LIKELY in logged.columns else logged.with_columns(_UNTOLD)
            self._since.append(rows)
            self._rows_since += rows.height
            self._enter(rows, says=False)

    @property
    def figures(self) -> ModelFigures:
        """How wrong it is, so far."""
        return self._meter.figures()

    def run(self, rows: pl.DataFrame) -> list[pl.Series]:
        """Predict the rows and learn them; return the columns that the step adds, null where nothing was predicted."""
        if self._commits_often and self._is_rolled_back():
            self._load()
        features, target = [*self.model.features], pl.col(self.model.target)
        has_target = target.is_not_null()
        if rows.schema[self.model.target].is_float():
            has_target &= target.is_finite()
        complete = flow_models.complete(rows, self.model)
        kept = rows.select(*features, self.model.target).filter(complete)
        labelled = kept.select(has_target)[self.model.target]
        self._refuse_unknown(kept[self.model.target].filter(labelled))
        self._incomplete += rows.height - kept.height
        self._unlabelled += int((~labelled).sum())
        said = self._enter(kept, labelled=labelled.to_numpy(), says=True)
        values = pl.Series(SAID, said.values, dtype=dtype(self.model.kind))
        likely = pl.Series(LIKELY, said.likely, dtype=pl.Float64)
        self._rows_since += int(labelled.sum())
        if self._commits_often and labelled.any():
            new = kept.with_columns(values, likely).filter(labelled)
            self._since.append(new)
            self._new.append(new)
        into = self.step.into
        added = [] if into is None else [values.alias(into)]
        for at, (name, _) in enumerate(self.step.proba):
            told = [probabilities[at] for probabilities in said.proba]
            added.append(pl.Series(name, told, dtype=pl.Float64).fill_nan(None))
        return [spread(column, complete).alias(column.name) for column in added]

    def _is_rolled_back(self) -> bool:
        found = self._store.look("models/revision", (self._owned.model_id,))
        return found != [(self._revision,)]

    def _refuse_unknown(self, targets: pl.Series) -> None:
        """Raise StepError for a class that was not declared: some estimators would learn it, others fail obscurely."""
        classes = self.model.classes
        if classes is None:
            return
        strange = targets.filter(~targets.is_in(list(classes)))
        if strange.len():
            raise StepError(
                f"the target {self.model.target!r} is {strange[0]!r}, which is none of the model's classes",
                where=self._where,
                expected=f"one of {list(classes)}, or null",
                next_step="filter() such rows out before fit, or declare a model of another name with all its "
                "classes; nothing of this batch was stored",
            )

    def _enter(
        self, rows: pl.DataFrame, *, says: bool, labelled: npt.NDArray[np.bool_] | None = None
    ) -> Said:
        """Let complete rows pass, chunk by chunk; those without a target are predicted only.

        Without ``says`` the rows were predicted before, and hold what was said.
        """
        is_labelled = np.ones(rows.height, dtype=bool) if labelled is None else labelled
        features, counts = self._learner.rows(rows), np.cumsum(is_labelled)
        targets = rows[self.model.target].to_list()
        said = Said() if says else Said(rows[SAID].to_list(), rows[LIKELY].to_list())
        chunk_rows, start, done = self.model.chunk_rows, 0, 0
        while start < rows.height:
            held = len(self._waiting.targets)
            # How many rows it takes until the chunk is whole.
            end = int(np.searchsorted(counts, done + chunk_rows - held)) + 1
            is_full, end = end <= rows.height, min(end, rows.height)
            part, which = features[start:end], is_labelled[start:end]
            if says:
                said.add(self._said(part, which, held, targets[start:end]))
            self._waiting.add(part, targets[start:end], said.part(start, end), which)
            if is_full:
                done += chunk_rows - held
                self._learn()
            start = end
        return said

    def _said(
        self, rows: Rows, which: npt.NDArray[np.bool_], held: int, targets: list[Any]
    ) -> Said:
        """Return what is said: rows to be learned stand where they do in their chunk, the others by themselves."""
        if not self._learned:
            untold_rows = [math.nan] * len(which)
            proba = [[math.nan] * len(self._asked) for _ in which] if self._asked else []
            return Said([None] * len(which), untold_rows, proba)
        if which.all():
            return self._said_at(rows, held, targets)
        learnt = self._said_at(chosen(rows, which), held, [*compress(targets, which)])
        others = self._said_at(chosen(rows, ~which), 0, [*compress(targets, ~which)])
        said, told = Said(), [0, 0]
        for is_learnt in which.tolist():
            at = told[is_learnt]
            said.add((learnt if is_learnt else others).part(at, at + 1))
            told[is_learnt] += 1
        return said

    def _said_at(self, rows: Rows, first: int, targets: list[Any]) -> Said:
        """Return what is said of rows that stand at ``first`` of a chunk."""
        room = self.model.chunk_rows
        values, told = self._learner.predict_both(rows, first=first, room=room)
        if told is None:
            if self._asked:
                raise untold(self.model, self._where)
            return Said(values, [math.nan] * len(values))
        # Of rows without a target nobody asks how likely theirs is.
        places = [self._classes.get(target, 0) for target in targets]
        likely = [row[at] for row, at in zip(told, places, strict=True)]
        asked = self._asked
        return Said(values, likely, [[row[at] for at in asked] for row in told] if asked else [])

    def _learn(self) -> None:
        """Learn what waits."""
        chunk, self._waiting = self._waiting, Waiting()
        self._meter.add(chunk.said, chunk.targets, chunk.likely)
        self._learner.learn(joined(chunk.parts), chunk.targets)
        self._learned += len(chunk.targets)

    def finish(self) -> None:
        """Nothing more can come: learn what waits, and keep a version."""
        if self._waiting.targets:
            self._learn()
            # Its rows may lie in a version already, as waiting ones.
            self._keeps = True
        self.keep()

    def keep(self) -> None:
        """Have the next commit keep a version, if something was learned since the last one."""
        self._keeps = self._keeps or self._rows_since > 0

    @property
    def is_changed(self) -> bool:
        """Whether the next commit has something to store."""
        return bool(self._new or self._unlabelled or self._incomplete or self._keeps)

    def taught(self) -> Taught | None:
        """Return what the next commit stores; it is taken for stored then."""
        if not self.is_changed:
            return None
        waiting = len(self._waiting.targets)
        keeps = self._keeps or self._rows_since >= self.model.version_rows
        log: tuple[Blob, ...] = ()
        replaces, version = False, None
        if keeps:
            held = self._waiting
            waits = (held.parts, held.targets, held.said, held.likely)
            state = (self._learner.estimator, self._meter.stored(), self._learned, waits)
            version = flow_models.pickled(state, self._where)
            self._since, self._rows_since, self._log_blobs = [], 0, 0
        elif self._new:
            replaces = self._log_blobs >= PARTIALS_MAX
            rows = pl.concat(self._since if replaces else self._new)
            self._since = [rows] if replaces else self._since
            log = encoded(rows)
            self._log_blobs = len(log) + (0 if replaces else self._log_blobs)
        taught = Taught(
            revision=self._revision,
            rows=self._learned + waiting,
            waiting=waiting,
            unlabelled=self._unlabelled,
            incomplete=self._incomplete,
            figures=self.figures,
            log=log,
            replaces_log=replaces,
            version=version,
        )
        self._new, self._unlabelled, self._incomplete, self._keeps = [], 0, 0, False
        return taught

    def store(self, tx: Transaction, taught: Taught) -> None:
        """Store it in ``tx``."""
        flow_models.teach(tx, self._owned, taught)


class Trainers:
    """The trainers of one run."""

    def __init__(self, trainers: Sequence[Trainer] = ()) -> None:
        """Bind them; most runs have none."""
        self._trainers = tuple(trainers)

    def of(self, step: Fit) -> Trainer:
        """Return the trainer of a step."""
        return next(trainer for trainer in self._trainers if trainer.step is step)

    @property
    def figures(self) -> dict[str, ModelFigures]:
        """The figures of each model."""
        return {trainer.model.name: trainer.figures for trainer in self._trainers}

    def finish(self) -> bool:
        """Nothing more can come; return whether there is something to store."""
        for trainer in self._trainers:
            trainer.finish()
        return any(trainer.is_changed for trainer in self._trainers)

    def keep(self) -> bool:
        """The run is stopped; return whether there is something to store."""
        for trainer in self._trainers:
            trainer.keep()
        return any(trainer.is_changed for trainer in self._trainers)

    def taught(self) -> list[tuple[Trainer, Taught]]:
        """Return what the next commit stores."""
        found = [(trainer, trainer.taught()) for trainer in self._trainers]
        return [(trainer, taught) for trainer, taught in found if taught is not None]


@contextmanager
def training(
    store: Store, plan: Plan, flow: str, *, commits_often: bool = True
) -> Iterator[Trainers]:
    """Take over the models that a plan trains, and give them back. Raises Fenced and PlanError."""
    with ExitStack() as stack:
        trainers = []
        for part in parts_of(plan):
            for number, step in enumerate(part.steps, 1):
                if isinstance(step, Fit):
                    owned = flow_models.own(store, step.model, flow)
                    stack.callback(flow_models.disown, store, owned)
                    where = f"step {number}, fit"
                    trainers.append(Trainer(store, owned, step, where, commits_often=commits_often))
        yield Trainers(trainers)


def fitted(trainer: Trainer, rows: pl.DataFrame) -> pl.DataFrame:
    """Return rows with the predictions that were made before they were learned, if the step wants them."""
    return rows.with_columns(trainer.run(rows))


class LearnStage(Clockless):
    """A ``fit`` and the steps behind it, up to the next step that keeps state or the end. Its state is the model's."""

    closed_until_us = TIME_MIN
    first_due_us: int | None = None
    last_due_us: int | None = None

    def __init__(
        self,
        plan: Plan,
        state: int,
        at: int,
        end: int,
        *,
        trainers: Trainers,
        tally: Tally,
    ) -> None:
        """Compile; ``at`` is where it stands, ``end`` where the next one."""
        step, schemas = plan.steps[at], plan.schemas()
        assert isinstance(step, Fit)
        self.states = range(state, state)
        self._trainer = trainers.of(step)
        self._columns = schemas[at].names
        self.after = steps_behind(plan, at, end, tally)
        self._empty = pl.DataFrame(schema=polars_schema(self.after.schema))

    def fate(self, side: int, mark: pl.Expr | None) -> pl.Expr:
        """Every row is in time."""
        del side, mark
        return pl.lit(TIMELY, dtype=pl.Int8)

    def are_timely(self, side: int, rows: pl.DataFrame) -> bool:
        """Every row is in time."""
        del side, rows
        return True

    def advance(self, sides: Sequence[pl.DataFrame | None], until_us: int) -> Advanced:
        """Predict and learn what has come."""
        del until_us
        [rows] = sides
        if rows is None or not rows.height:
            return self._empty, ()
        return self.after.applied(fitted(self._trainer, rows.select(self._columns))), ()

    def watermark_behind_us(self, time: str) -> int:
        """Nothing is known: rows have no time here."""
        del time
        return TIME_MIN
