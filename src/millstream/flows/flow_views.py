"""Looking at a plan: the part of ``Flow`` that shows what it will do, as text and as a drawing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from millstream.flows.contract import FlowEngines
from millstream.flows.explain import explain
from millstream.flows.figures import FlowFigures, StepFigures
from millstream.flows.kept import ROWS_SHOWN, KeptState
from millstream.flows.plan import Plan
from millstream.flows.plot import FlowPlot, plot


class FlowViews(ABC):
    """What a flow shows of itself."""

    plan: Plan
    engines: FlowEngines

    @property
    @abstractmethod
    def name(self) -> str:
        """The name of the flow."""

    def explain(self) -> str:
        """Return the plan as text: source, steps with the columns they give, and sink."""
        return explain(self.plan, name=self.name)

    def plot(self, steps: Sequence[StepFigures] = ()) -> FlowPlot:
        """Return the plan as a drawing (SVG): ``.svg`` is its text, ``.save(path)`` writes it, a notebook shows it.

        With the ``steps`` of a report or of ``figures()`` each box shows what its step got, gave and took. Raises
        ConfigurationError for the steps of another flow.
        """
        return plot(self.plan, name=self.name, steps=steps)

    def state(
        self, *, step: int | None = None, key: object = None, rows_max: int = ROWS_SHOWN
    ) -> tuple[KeptState, ...]:
        """Return what the steps of the stream of this name keep, as its last commit left it. Nothing is changed.

        A process that streams the flow goes on meanwhile. ``step`` is a number of ``explain()``, 0 for a join; ``key``
        a key of its own type, a tuple if it has several columns; of each state ``rows_max`` rows are given. Raises
        ConfigurationError for a step that keeps no rows, a key of another type, and one of which nothing is kept.
        """
        return self.engines.stream.state(
            self.plan, name=self.name, step=step, key=key, rows_max=rows_max
        )

    def figures(self) -> FlowFigures:
        """Return how the stream of this name is doing, as its last commit left it. Nothing is changed.

        What each step got, gave and took, how busy the stream is, what waits to be read, and how far the watermark is
        behind. Also while another process streams the flow; of one that has ended, its last run. Raises
        ConfigurationError if it never committed.
        """
        return self.engines.stream.figures(self.plan, name=self.name)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        """Show the plan in a notebook: as a drawing, and as text where there are none."""
        del include, exclude
        return {"image/svg+xml": self.plot().svg, "text/plain": self.explain()}
