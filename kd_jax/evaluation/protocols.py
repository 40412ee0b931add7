"""Protocols of verification: how an accuracy comes from embeddings, as published code has it."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from kd_jax.errors import choices
from kd_jax.evaluation._embeddings import unit_rows


class Metric(NamedTuple):
    """How unit rows are compared."""

    measure: Callable[[np.ndarray, np.ndarray], np.ndarray]
    sign: int  # times the measure, the greater the more alike
    ends: tuple[float, float]  # signed; beyond every pair of unit rows, so all or none accepted


METRICS = {
    "cosine": Metric(lambda a, b: np.sum(a * b, axis=1), 1, (-2.0, 2.0)),
    "squared_l2": Metric(lambda a, b: np.sum(np.square(a - b), axis=1), -1, (-5.0, 1.0)),
}
FUSE = {
    "none": lambda image, mirrored: image,
    "sum": lambda image, mirrored: image + mirrored,
    "concat": lambda image, mirrored: np.concatenate([image, mirrored], axis=1),
}
# Which side of its equals np.searchsorted puts a threshold among the scores of different persons,
# of which those before it are right.
EQUAL = {"different": "right", "error": "left"}
BEST = {"first": lambda thresholds: thresholds[0], "mean": np.mean}


def _plain_scores(first, second, fold, metric):
    """Scores `[K, P]` of all pairs for each fold: the greater the more alike."""
    scores = metric.sign * metric.measure(unit_rows(first, "first"), unit_rows(second, "second"))
    return np.broadcast_to(scores, (fold.max() + 1, len(scores)))


def _centred_scores(first, second, fold, metric):
    scores = []
    for k in range(fold.max() + 1):
        mean = np.concatenate([first[fold != k], second[fold != k]]).mean(axis=0)
        centred = (unit_rows(x - mean, "an embedding less the mean") for x in (first, second))
        scores.append(metric.sign * metric.measure(*centred))
    return np.stack(scores)


SCORES = {"none": _plain_scores, "train_folds": _centred_scores}


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How an accuracy comes from embeddings; the steps in the order of the attributes.

    Rows are normalised after `center`, always: a grid of thresholds means nothing without.

    Attributes:
        name: what a result calls it.
        fuse: how the embeddings of an image and of its mirror image become one: "none" (the
            mirror image is not used), "sum", "concat".
        center: "none"; "train_folds" subtracts from every pair, also those of the test fold, the
            mean of the training folds' embeddings, first and second images pooled.
        metric: "cosine", or "squared_l2", 2 - 2 cosine: the order is the same, a grid is not.
        thresholds: candidates, judged by the accuracy on the training folds: "exact", below,
            between and above the training scores; or a grid in the units of the metric.
        equal: what a score equal to the threshold is: "different" (accepted are the better scores
            only); "error", wrong for pairs of both kinds.
        best: which of several candidates of the greatest accuracy: the "first" of the grid, or of
            "exact" the one that accepts most; their "mean".
    """

    name: str
    fuse: str = "none"
    center: str = "none"
    metric: str = "cosine"
    thresholds: str | tuple[float, ...] = dataclasses.field(default="exact", repr=False)
    equal: str = "error"
    best: str = "first"

    def __post_init__(self):
        for field, known in {
            "fuse": FUSE,
            "center": SCORES,
            "metric": METRICS,
            "equal": EQUAL,
            "best": BEST,
        }.items():
            value = getattr(self, field)
            if value not in known:
                raise ValueError(f"{field} {value!r} must be one of {choices(value, known)}")
        if isinstance(self.thresholds, str) and self.thresholds == "exact":
            return
        grid = np.asarray(self.thresholds)
        real = grid.dtype.kind in "fiu" and grid.ndim == 1 and grid.size
        if not real or not np.isfinite(grid).all():
            raise ValueError("thresholds must be 'exact' or one finite number or more")
        object.__setattr__(self, "thresholds", tuple(grid.tolist()))  # hashable, and of floats

    def to_json(self) -> dict[str, Any]:
        """The protocol as `json.dumps` takes it, a grid by its ends and number."""
        grid = self.thresholds
        if grid != "exact":
            grid = {"first": grid[0], "last": grid[-1], "number": len(grid)}
        fields = dataclasses.fields(self)
        return {field.name: getattr(self, field.name) for field in fields} | {"thresholds": grid}


_ALL = (
    # deepinsight/insightface, recognition/arcface_torch/eval/verification.py, test and evaluate.
    Protocol(
        "insightface",
        fuse="sum",
        metric="squared_l2",
        thresholds=np.arange(0, 4, 0.01),
        equal="different",
        best="first",
    ),
    # wy1iu/sphereface, test/code/evaluation.m.
    Protocol(
        "sphereface",
        fuse="concat",
        center="train_folds",
        metric="cosine",
        thresholds=np.arange(-10_000, 10_001) / 10_000,
        equal="error",
        best="mean",
    ),
    # No grid, and no gain from scores that cannot be told apart.
    Protocol(
        "exact",
        fuse="sum",
        metric="cosine",
        thresholds="exact",
        equal="error",
        best="first",
    ),
)
PROTOCOLS: Mapping[str, Protocol] = {protocol.name: protocol for protocol in _ALL}


def known_protocol(protocol: str | Protocol) -> Protocol:
    """The protocol of a name, or the one that is given; raises `ValueError` for other names."""
    if isinstance(protocol, Protocol):
        return protocol
    if protocol not in PROTOCOLS:
        known = choices(protocol, PROTOCOLS)
        raise ValueError(f"protocol {protocol!r} is unknown: choose from {known}, or pass one")
    return PROTOCOLS[protocol]
