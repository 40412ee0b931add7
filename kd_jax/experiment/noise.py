"""Noise of results: standard errors, and differences that are within noise."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from kd_jax.experiment.stored import num_images, result, result_name

_NORMAL = 1.96
"""97.5 % quantile of the normal distribution: an interval of 95 % is this many standard errors."""


class Difference(NamedTuple):
    """A difference of two accuracies.

    Attributes:
        value: difference of fractions, -1 to 1.
        margin: half the length of the interval of 95 % around it.
        source: origin of the noise, as in `10,000 test images` or `3 seeds, paired`.
    """

    value: float
    margin: float
    source: str

    @property
    def within_noise(self) -> bool:
        """Returns whether the interval of 95 % contains 0."""
        return abs(self.value) <= self.margin

    def __str__(self) -> str:
        """Returns the difference in percentage points, its interval of 95 %, and the verdict."""
        verdict = "within" if self.within_noise else "beyond"
        noise = f"{verdict} the noise of {self.source}"
        return f"{100 * self.value:+.2f} ± {100 * self.margin:.2f} ({noise})"


def standard_error(accuracy: float, number: int) -> float:
    """Returns the binomial standard error of an accuracy, sqrt(p (1 - p) / N).

    p is (right + 1) / (N + 2), so that 0 % and 100 % have an error too.

    Args:
        accuracy: fraction of the images that are right, 0 to 1.
        number: number of images N.
    """
    p = (accuracy * number + 1) / (number + 2)
    return math.sqrt(p * (1 - p) / number)


def margin(accuracy: float, number: int) -> float:
    """Returns half the length of the interval of 95 % around an accuracy; see `standard_error`."""
    return _NORMAL * standard_error(accuracy, number)


def of_stages(stage: Mapping[str, Any], base: Mapping[str, Any]) -> Difference | None:
    """Returns the result of a stage minus that of another one, after the last epoch.

    The noise is the binomial standard error of the images. The errors of both stages are taken as
    independent: on the same images the true noise is usually smaller.

    Args:
        stage: content of `stage.json`.
        base: content of the other `stage.json`.

    Returns:
        The difference, or None if the results are different metrics, or not accuracies on a known
        number of images.
    """
    numbers = num_images(stage), num_images(base)
    if None in numbers or result_name(stage) != result_name(base):
        return None
    value, other = result(stage), result(base)
    first, second = (number or 0 for number in numbers)
    error = math.hypot(standard_error(value, first), standard_error(other, second))
    kind = "test" if result_name(stage) == "accuracy" else "validation"
    source = f"{first:,} {kind} images, without that of seeds"
    return Difference(value - other, _NORMAL * error, source)


def of_seeds(values: Sequence[float], base: Sequence[float]) -> Difference:
    """Returns the mean of differences that are paired by seed.

    The margin is the standard error of the mean times the quantile of Student's t distribution.

    Args:
        values: results, one per seed.
        base: results of the other runs, of the same seeds in the same order; two or more.
    """
    from scipy.special import stdtrit  # takes a second to import

    pairs = [a - b for a, b in zip(values, base, strict=True)]
    error = statistics.stdev(pairs) / math.sqrt(len(pairs))
    factor = float(stdtrit(len(pairs) - 1, 0.975))
    return Difference(statistics.mean(pairs), factor * error, f"{len(pairs)} seeds, paired")


def comparable(stages: Sequence[Mapping[str, Any]]) -> list[tuple[int, int]]:
    """Returns the pairs of stages whose networks are alike: same architecture, size and metric.

    Args:
        stages: contents of `stage.json`.

    Returns:
        Positions of both stages of each pair; the second one is the later one.
    """

    def kind(stage: Mapping[str, Any]) -> tuple[Any, ...]:
        size = stage.get("size", [stage["resolution"]])
        return stage["network"], stage["params"], *size, result_name(stage)

    numbers = range(len(stages))
    return [(i, j) for j in numbers for i in range(j) if kind(stages[i]) == kind(stages[j])]
