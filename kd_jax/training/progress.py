"""The progress of a stage: its evaluations, and the metrics since the last one."""

import dataclasses
from collections.abc import Mapping

import numpy as np


@dataclasses.dataclass
class Progress:
    """The state of the loop, in addition to the train state.

    It is saved with the train state, so that a resumed run ends with the same numbers.

    Attributes:
        evaluated: step of the last evaluation.
        last: metrics of that evaluation; None before the first.
        best: metrics of the evaluation with the greatest score, the latest of equals, as in Orbax.
        score: that score; None before the first evaluation.
        sums: metrics summed over the steps since the last evaluation.
        count: number of these steps.
        seconds: time spent, over all processes that worked on the stage.
    """

    evaluated: int = -1
    last: dict[str, float] | None = None
    best: dict[str, float] | None = None
    score: float | None = None
    sums: dict[str, float] = dataclasses.field(default_factory=dict)
    count: int = 0
    seconds: float = 0.0

    def add(self, metrics: Mapping[str, np.ndarray]) -> None:
        """Adds the metrics of some steps, each `[K]`."""
        for name, values in metrics.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(values.sum(dtype=np.float64))
        self.count += len(next(iter(metrics.values())))

    def take_means(self) -> dict[str, float]:
        """Returns the means over the steps since the last evaluation, and sets the sums to zero."""
        means = {name: value / self.count for name, value in self.sums.items()}
        self.sums, self.count = {}, 0
        return means

    def record(self, step: int, metrics: dict[str, float], score: float) -> None:
        """Stores the metrics of an evaluation and its score."""
        self.evaluated, self.last = step, metrics
        if self.score is None or score >= self.score:
            self.best, self.score = metrics, score
