"""Verification: decides by a threshold on a score whether two images show the same person.

Published accuracies on Labeled Faces in the Wild (LFW) and similar sets follow different protocols
and are not comparable. Choose one of `PROTOCOLS` and report its name with the number.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from kd_jax.evaluation._pair_scores import PairScores, fused
from kd_jax.evaluation.faces.protocols import (
    BEST,
    METRICS,
    SCORES,
    Metric,
    Protocol,
    protocol_of,
    uncentered,
)


@dataclasses.dataclass(frozen=True)
class Verification:
    """Result of `verification`; rates are fractions from 0 to 1.

    Attributes:
        accuracy: mean accuracy over the folds.
        std: standard deviation of the accuracy over the folds, ddof 0.
        fold_accuracies: accuracy of each fold, by the best threshold of the other folds.
        thresholds: threshold of each fold, in the units of the metric.
        auc: area under the ROC curve of all pairs, each with its score as a test pair.
        eer: equal error rate of the same curve, linear between its corners.
        val_at_far: pair (validation rate, false accept rate) by target, each the mean over the
            test folds.
        protocol: protocol of the numbers.
    """

    accuracy: float
    std: float
    fold_accuracies: tuple[float, ...]
    thresholds: tuple[float, ...]
    auc: float
    eer: float
    val_at_far: Mapping[float, tuple[float, float]]
    protocol: Protocol

    def to_json(self) -> dict[str, Any]:
        """Returns the result as values for `json.dumps`."""
        rates = {f"{k:g}": {"val": v, "far": f} for k, (v, f) in self.val_at_far.items()}
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return fields | {
            "fold_accuracies": list(self.fold_accuracies),
            "thresholds": list(self.thresholds),
            "val_at_far": rates,
            "protocol": self.protocol.to_json(),
        }


def verification(
    first: ArrayLike,
    second: ArrayLike,
    same: ArrayLike,
    fold: ArrayLike,
    *,
    protocol: str | Protocol = "exact",
    first_mirrored: ArrayLike | None = None,
    second_mirrored: ArrayLike | None = None,
    fars: Iterable[float] = (1e-3, 1e-2, 1e-1),
) -> Verification:
    """Verifies pairs by cross-validation: the other folds choose the threshold of each fold.

    VAL@FAR uses the lowest exact threshold at which at most the target fraction of the training
    folds' different pairs is accepted, for any grid of the protocol, and applies it to the test
    fold. FaceNet and InsightFace interpolate on a grid instead. If the target is less than one of
    the training folds' different pairs (1 of 2,700 in LFW), none of them is accepted.

    Args:
        first: embeddings `[P, D]` of the first images of the pairs, of any norm.
        second: embeddings `[P, D]` of the second images.
        same: bool `[P]`, True if both images show the same person.
        fold: integers `[P]`, 0 to K - 1 with K at least 2; each fold has pairs of both kinds. For
            the 6,000 pairs of LFW in the order of `pairs.txt`, it is the row divided by 600.
        protocol: a name in `PROTOCOLS`, or a protocol.
        first_mirrored: embeddings `[P, D]` of the mirrored first images, for a protocol that uses
            them.
        second_mirrored: embeddings `[P, D]` of the mirrored second images.
        fars: target false accept rates, each greater than 0 and less than 1.

    Returns:
        Accuracy by the protocol, and metrics that need no threshold.

    Raises:
        ValueError: if shapes or types do not fit; if the protocol is unknown, lacks the mirrored
            images or does not use them; if embeddings have NaN, infinity, a row of zeros or one
            direction for all images of a side; if a fold lacks pairs of one kind.

    References:
        Huang et al., `Labeled faces in the wild <https://hal.science/inria-00321923>`_, 2008;
        the code of each protocol is named in `faces/protocols.py`.
    """
    protocol = protocol_of(protocol)
    one, other = fused(first, second, first_mirrored, second_mirrored, protocol.fuse)
    same, fold = as_folds(same, fold, len(one))
    fars = tuple(fars)
    if not all(0 < far < 1 for far in fars):
        raise ValueError(f"fars must be greater than 0 and less than 1, not {fars}")
    metric = METRICS[protocol.metric]
    scores = SCORES[protocol.center](one, other, fold, metric)

    accuracies, thresholds = [], []
    rates: dict[float, list[tuple[float, float]]] = {far: [] for far in fars}
    for k, row in enumerate(scores):
        train = PairScores(row[fold != k], same[fold != k], protocol.equal)
        test = PairScores(row[fold == k], same[fold == k], protocol.equal)
        exact = train.exact_thresholds(metric.ends)
        threshold = _best(train, protocol, metric)
        accuracies.append(test.right(threshold) / len(test))
        thresholds.append(metric.sign * threshold)
        far_train = train.far(exact)
        for far in fars:
            lowest = exact[far_train <= far][0]
            rates[far].append((test.val(lowest), test.far(lowest)))

    auc, eer = _area_and_equal_error_rate(same, scores[fold, np.arange(len(fold))])
    return Verification(
        accuracy=float(np.mean(accuracies)),
        std=float(np.std(accuracies)),
        fold_accuracies=tuple(map(float, accuracies)),
        thresholds=tuple(map(float, thresholds)),
        auc=auc,
        eer=eer,
        val_at_far={far: tuple(np.mean(rates[far], axis=0).tolist()) for far in fars},
        protocol=protocol,
    )


def best_threshold(
    first: ArrayLike,
    second: ArrayLike,
    same: ArrayLike,
    *,
    protocol: str | Protocol = "exact",
    first_mirrored: ArrayLike | None = None,
    second_mirrored: ArrayLike | None = None,
) -> float:
    """Returns the threshold of the most correct decisions about pairs.

    It is the threshold that the protocol would choose if these pairs were its training folds. To
    evaluate other pairs by it, see `kd_jax.evaluation.faces.with_threshold`.

    Args:
        first: embeddings `[P, D]` of the first images of the pairs, of any norm.
        second: embeddings `[P, D]` of the second images.
        same: bool `[P]`, True if both images show the same person; there are pairs of both kinds.
        protocol: a name in `PROTOCOLS`, or a protocol, whose `center` is `"none"`.
        first_mirrored: embeddings `[P, D]` of the mirrored first images, for a protocol that uses
            them.
        second_mirrored: embeddings `[P, D]` of the mirrored second images.

    Returns:
        The threshold in the units of the protocol's metric.

    Raises:
        ValueError: for the reasons of `verification`, or if the protocol subtracts a mean.
    """
    protocol = uncentered(protocol)
    one, other = fused(first, second, first_mirrored, second_mirrored, protocol.fuse)
    kinds = np.asarray(same)
    if kinds.shape != (len(one),) or kinds.dtype.kind != "b" or len(np.unique(kinds)) < 2:
        raise ValueError(f"same must be bool [{len(one)}], one per pair, with pairs of both kinds")
    metric = METRICS[protocol.metric]
    (scores,) = SCORES["none"](one, other, np.zeros(len(one), np.int64), metric)
    return metric.sign * _best(PairScores(scores, kinds, protocol.equal), protocol, metric)


def _best(scores: PairScores, protocol: Protocol, metric: Metric) -> float:
    """Returns the signed threshold of the most correct decisions."""
    candidates = scores.exact_thresholds(metric.ends)
    if protocol.thresholds != "exact":
        candidates = metric.sign * np.asarray(protocol.thresholds, np.float64)
    right = scores.right(candidates)
    return float(BEST[protocol.best](candidates[right == right.max()]))


def as_folds(same: ArrayLike, fold: ArrayLike, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Checks the kinds and the folds of pairs.

    Args:
        same: bool `[number]`.
        fold: integers `[number]`, 0 to K - 1.
        number: number of pairs.

    Returns:
        Both as arrays.

    Raises:
        ValueError: if shapes or types do not fit, or a fold lacks pairs of one kind.
    """
    same, fold = np.asarray(same), np.asarray(fold)
    for name, array, kinds, expected in (
        ("same", same, "b", "bool"),
        ("fold", fold, "iu", "integers"),
    ):
        if array.shape != (number,) or array.dtype.kind not in kinds:
            raise ValueError(
                f"{name} must be {expected} [{number}], one per pair, not {array.dtype}"
                f" {list(array.shape)}"
            )
    folds = np.unique(fold)
    if len(folds) < 2 or not np.array_equal(folds, np.arange(len(folds))):
        raise ValueError(
            f"fold must be numbered 0, 1, ... without a gap, two folds or more, not {folds}"
        )
    for k in folds:
        if len(np.unique(same[fold == k])) < 2:
            raise ValueError(
                f"fold {k} has pairs of one kind only: give each fold pairs of the same person and"
                " pairs of different persons"
            )
    return same, fold


def _area_and_equal_error_rate(same: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    from sklearn.metrics import roc_auc_score, roc_curve  # the import takes a second

    accept, detect, _ = roc_curve(same, scores)
    gap = accept - (1 - detect)  # increases from -1 to 1
    after = int(np.argmax(gap >= 0))
    part = gap[after] / (gap[after] - gap[after - 1])
    error = accept[after] - part * (accept[after] - accept[after - 1])
    return float(roc_auc_score(same, scores)), float(error)
