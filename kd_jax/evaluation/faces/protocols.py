"""Protocols of verification: the steps from embeddings to an accuracy, as in published code."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from kd_jax.core.errors import UsageError, check_choice
from kd_jax.evaluation._embeddings import unit_rows

Side = Literal["left", "right"]


class Metric(NamedTuple):
    """A comparison of unit rows.

    Attributes:
        measure: from two arrays `[P, D]` to `[P]`.
        sign: factor of the measure after which a greater value means more alike.
        ends: signed thresholds below and above the scores of all pairs of unit rows.
    """

    measure: Callable[[np.ndarray, np.ndarray], np.ndarray]
    sign: int
    ends: tuple[float, float]


METRICS = {
    "cosine": Metric(lambda a, b: np.sum(a * b, axis=1), 1, (-2.0, 2.0)),
    "squared_l2": Metric(lambda a, b: np.sum(np.square(a - b), axis=1), -1, (-5.0, 1.0)),
}
FUSE: dict[str, Callable[[np.ndarray, Any], np.ndarray]] = {
    "none": lambda image, mirrored: image,
    "sum": lambda image, mirrored: image + mirrored,
    "concat": lambda image, mirrored: np.concatenate([image, mirrored], axis=1),
}
EQUAL: dict[str, Side] = {"different": "right", "error": "left"}
"""Side of `np.searchsorted` for a threshold among the scores of pairs of different persons: the
scores before its position are correctly rejected."""
BEST: dict[str, Callable[[np.ndarray], np.floating]] = {
    "first": lambda thresholds: thresholds[0],
    "mean": np.mean,
}


def _plain_scores(
    first: np.ndarray, second: np.ndarray, fold: np.ndarray, metric: Metric
) -> np.ndarray:
    """Returns the scores of all pairs for each test fold, `[K, P]`; greater means more alike."""
    scores = metric.sign * metric.measure(unit_rows(first, "first"), unit_rows(second, "second"))
    return np.broadcast_to(scores, (fold.max() + 1, len(scores)))


def _centered_scores(
    first: np.ndarray, second: np.ndarray, fold: np.ndarray, metric: Metric
) -> np.ndarray:
    """Does the same after the mean of the training folds is subtracted."""
    scores = []
    for k in range(fold.max() + 1):
        mean = np.concatenate([first[fold != k], second[fold != k]]).mean(axis=0)
        centered = (unit_rows(x - mean, "an embedding minus the mean") for x in (first, second))
        scores.append(metric.sign * metric.measure(*centered))
    return np.stack(scores)


SCORES = {"none": _plain_scores, "train_folds": _centered_scores}


@dataclasses.dataclass(frozen=True)
class Protocol:
    """The steps from embeddings to an accuracy, in the order of the attributes.

    Rows are always normalized after `center`, because a grid of thresholds has no meaning for rows
    of arbitrary norm.

    Attributes:
        name: name in results.
        fuse: how to combine the embeddings of an image and of its mirror image: "none" (the mirror
            image is not used), "sum" or "concat".
        center: "none", or "train_folds": the mean of the training folds' embeddings, over first
            and second images, is subtracted from all pairs, including those of the test fold.
        metric: "cosine", or "squared_l2", which is 2 - 2 cosine. Both give the same order of
            pairs, but not the same grid of thresholds.
        thresholds: candidates, of which the accuracy on the training folds selects: "exact" for
            one below, one above and one between each two adjacent training scores; or a grid in
            the units of the metric.
        equal: decision for a score equal to the threshold: "different" (only better scores are
            accepted), or "error" (wrong for pairs of both kinds).
        best: choice between several candidates of the greatest accuracy: "first", which is the
            first of the grid, or for "exact" the one that accepts most; or "mean".
    """

    name: str
    fuse: str = "none"
    center: str = "none"
    metric: str = "cosine"
    thresholds: str | tuple[float, ...] = dataclasses.field(default="exact", repr=False)
    equal: str = "error"
    best: str = "first"

    def __post_init__(self):
        for field, known in (
            ("fuse", FUSE),
            ("center", SCORES),
            ("metric", METRICS),
            ("equal", EQUAL),
            ("best", BEST),
        ):
            check_choice(getattr(self, field), known, field)
        if isinstance(self.thresholds, str) and self.thresholds == "exact":
            return
        grid = np.asarray(self.thresholds)
        real = grid.dtype.kind in "fiu" and grid.ndim == 1 and grid.size
        if not real or not np.isfinite(grid).all():
            raise ValueError("thresholds must be 'exact' or one or more finite numbers")
        object.__setattr__(self, "thresholds", tuple(grid.tolist()))  # hashable floats

    def to_json(self) -> dict[str, Any]:
        """Returns the protocol as values for `json.dumps`, a grid by its ends and its length."""
        grid: Any = self.thresholds
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
        thresholds=tuple(np.arange(0, 4, 0.01).tolist()),
        equal="different",
        best="first",
    ),
    # wy1iu/sphereface, test/code/evaluation.m.
    Protocol(
        "sphereface",
        fuse="concat",
        center="train_folds",
        metric="cosine",
        thresholds=tuple((np.arange(-10_000, 10_001) / 10_000).tolist()),
        equal="error",
        best="mean",
    ),
    # No grid, and no advantage from equal scores.
    Protocol(
        "exact",
        fuse="sum",
        metric="cosine",
        thresholds="exact",
        equal="error",
        best="first",
    ),
    # KDim, Wang et al., ICCVW 2019, section 3.1: no mirror images. The rest is that of "exact".
    Protocol("plain"),
)
PROTOCOLS: Mapping[str, Protocol] = {protocol.name: protocol for protocol in _ALL}
"""Protocols by name."""


def protocol_of(protocol: str | Protocol) -> Protocol:
    """Returns the protocol of a name, or the protocol that is passed.

    Raises:
        UsageError: if the name is unknown.
    """
    if isinstance(protocol, Protocol):
        return protocol
    return PROTOCOLS[check_choice(protocol, PROTOCOLS, "protocol")]


def uncentered(protocol: str | Protocol) -> Protocol:
    """Returns a protocol that subtracts no mean of the evaluated pairs.

    Raises:
        UsageError: if the name is unknown, or the protocol subtracts a mean.
    """
    protocol = protocol_of(protocol)
    if protocol.center != "none":
        raise UsageError(
            f"protocol {protocol.name!r} subtracts a mean of the evaluated pairs, so that no"
            " threshold can be set beforehand: choose another protocol, such as 'plain'."
        )
    return protocol


def with_threshold(protocol: str | Protocol, threshold: float) -> Protocol:
    """Returns a protocol with one threshold that is set beforehand, in place of cross-validation.

    HORKD, Ge et al., AAAI 2020, section 4.2 decides so "with a pre-set threshold", and gives
    neither its value nor its origin. `kd_jax.evaluation.best_threshold` finds one on other pairs.

    Args:
        protocol: a name in `PROTOCOLS`, or a protocol, whose `center` is `"none"`.
        threshold: threshold in the units of the protocol's metric.
    """
    protocol = uncentered(protocol)
    name = f"{protocol.name}, preset threshold"
    return dataclasses.replace(protocol, name=name, thresholds=(float(threshold),))
