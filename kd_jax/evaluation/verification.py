"""Verification: whether two images show the same person, judged by a threshold on a score.

Published accuracies on Labeled Faces in the Wild (LFW) and its kin follow different protocols and
are not comparable: choose one of `PROTOCOLS` and name it beside the number.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from kd_jax.evaluation._embeddings import as_embeddings
from kd_jax.evaluation.protocols import BEST, EQUAL, FUSE, METRICS, SCORES, Protocol, known_protocol


@dataclasses.dataclass(frozen=True)
class Verification:
    """What `verification` found; rates are shares from 0 to 1.

    Attributes:
        accuracy: the mean over the folds.
        deviation: the standard deviation of the folds' accuracies, ddof 0.
        fold_accuracies: each fold's, by the threshold that suits the other folds best.
        thresholds: these thresholds, in the units of the metric.
        auc: area under the ROC curve of all pairs, each scored while its fold was the test fold.
        eer: equal error rate of the same curve, linear between its corners.
        val_at_far: by target, the pair (validation rate, false accept rate) on the test folds,
            each the mean over the folds.
        protocol: what the numbers were computed by.
    """

    accuracy: float
    deviation: float
    fold_accuracies: tuple[float, ...]
    thresholds: tuple[float, ...]
    auc: float
    eer: float
    val_at_far: Mapping[float, tuple[float, float]]
    protocol: Protocol

    def to_json(self) -> dict[str, Any]:
        """The result as `json.dumps` takes it."""
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
    """Verification of pairs by cross-validation: each fold judged by the others' threshold.

    VAL@FAR takes the exact threshold that accepts most while at most the target share of the
    training folds' different pairs is accepted, whatever the grid of the protocol, and applies it
    to the test fold. FaceNet and InsightFace interpolate a grid instead. A target below one of the
    training folds' different pairs (1 of 2,700 in LFW) allows none of them.

    Args:
        first: embeddings `[P, D]` of the pairs' first images, of any length.
        second: `[P, D]` of their second images.
        same: bool `[P]`, whether the two show the same person.
        fold: whole numbers `[P]`, 0 to K - 1 with K at least 2, each with pairs of both kinds;
            of LFW's 6,000 pairs in the order of `pairs.txt`, the row divided by 600.
        protocol: a name of `PROTOCOLS`, or your own.
        first_mirrored: `[P, D]` of the mirror images, for a protocol that fuses.
        second_mirrored: likewise.
        fars: targets, each greater than 0 and less than 1.

    Returns:
        The accuracy of the protocol, and its threshold-free companions.

    Raises:
        ValueError: the shapes or types do not fit; the protocol is unknown, lacks the mirror
            images or has no use for them; embeddings with NaN, infinity, a row of zeros or one
            direction for all images, on one side too; a fold without pairs of both kinds.

    References:
        Huang et al., `Labeled faces in the wild <https://hal.science/inria-00321923>`_, 2008;
        `PROTOCOLS` names the code of each.
    """
    protocol = known_protocol(protocol)
    first, second = _fused(first, second, first_mirrored, second_mirrored, protocol.fuse)
    same, fold = _pairs(same, fold, len(first))
    fars = tuple(fars)
    if not all(0 < far < 1 for far in fars):
        raise ValueError(f"fars must be greater than 0 and less than 1, not {fars}")
    metric = METRICS[protocol.metric]
    scores = SCORES[protocol.center](first, second, fold, metric)

    accuracies, thresholds, rates = [], [], {far: [] for far in fars}
    for k, row in enumerate(scores):
        train = _Judged(row[fold != k], same[fold != k], protocol.equal)
        test = _Judged(row[fold == k], same[fold == k], protocol.equal)
        exact = train.between(metric.ends)
        candidates = exact
        if protocol.thresholds != "exact":
            candidates = metric.sign * np.asarray(protocol.thresholds)
        right = train.right(candidates)
        threshold = BEST[protocol.best](candidates[right == right.max()])
        accuracies.append(test.right(threshold) / len(test))
        thresholds.append(metric.sign * threshold)
        far_train = train.far(exact)
        for far in fars:
            lowest = exact[far_train <= far][0]
            rates[far].append((test.val(lowest), test.far(lowest)))

    auc, eer = _area_and_equal_error_rate(same, scores[fold, np.arange(len(fold))])
    return Verification(
        accuracy=float(np.mean(accuracies)),
        deviation=float(np.std(accuracies)),
        fold_accuracies=tuple(map(float, accuracies)),
        thresholds=tuple(map(float, thresholds)),
        auc=auc,
        eer=eer,
        val_at_far={far: tuple(np.mean(rates[far], axis=0).tolist()) for far in fars},
        protocol=protocol,
    )


class _Judged:
    """Scores of pairs, counted by threshold: greater scores are accepted as the same person."""

    def __init__(self, scores, same, equal):
        self.same = np.sort(scores[same])
        self.different = np.sort(scores[~same])
        self.side = EQUAL[equal]

    def __len__(self):
        return len(self.same) + len(self.different)

    def accepted(self, thresholds):
        return len(self.same) - np.searchsorted(self.same, thresholds, side="right")

    def rejected(self, thresholds):
        return np.searchsorted(self.different, thresholds, side=self.side)

    def right(self, thresholds):
        return self.accepted(thresholds) + self.rejected(thresholds)

    def val(self, thresholds):
        return self.accepted(thresholds) / len(self.same)

    def far(self, thresholds):
        return (len(self.different) - self.rejected(thresholds)) / len(self.different)

    def between(self, ends):
        """One threshold for each way to part the scores, rising."""
        distinct = np.unique(np.concatenate([self.same, self.different]))
        middle = distinct[:-1] + np.diff(distinct) / 2
        return np.concatenate([ends[:1], middle, ends[1:]])


def _fused(first, second, first_mirrored, second_mirrored, fuse):
    arrays = {"first": first, "second": second}
    mirrored = {"first_mirrored": first_mirrored, "second_mirrored": second_mirrored}
    for name, array in mirrored.items():
        if fuse == "none" and array is not None:
            raise ValueError(f"{name} is not used by this protocol, whose fuse is none: omit it")
        if fuse != "none" and array is None:
            raise ValueError(
                f"{name} is missing: this protocol fuses an image and its mirror image by {fuse};"
                " embed the mirror images, too, or choose a protocol whose fuse is none"
            )
    if fuse != "none":
        arrays |= mirrored
    arrays = {name: as_embeddings(array, name) for name, array in arrays.items()}
    for name, array in arrays.items():
        if array.shape != arrays["first"].shape:
            raise ValueError(
                f"{name} is {list(array.shape)} and first {list(arrays['first'].shape)}: pass one"
                " row a pair, of one embedding space"
            )
    join = FUSE[fuse]
    return (
        join(arrays["first"], arrays.get("first_mirrored")),
        join(arrays["second"], arrays.get("second_mirrored")),
    )


def _pairs(same, fold, number):
    same, fold = np.asarray(same), np.asarray(fold)
    for name, array, kinds, what in (
        ("same", same, "b", "bool"),
        ("fold", fold, "iu", "whole numbers"),
    ):
        if array.shape != (number,) or array.dtype.kind not in kinds:
            raise ValueError(
                f"{name} must be {what} [{number}], one a pair, not {array.dtype}"
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


def _area_and_equal_error_rate(same, scores):
    from sklearn.metrics import roc_auc_score, roc_curve  # a second, which training need not wait

    accept, detect, _ = roc_curve(same, scores)
    gap = accept - (1 - detect)  # rises from -1 to 1
    after = int(np.argmax(gap >= 0))
    part = gap[after] / (gap[after] - gap[after - 1])
    error = accept[after] - part * (accept[after] - accept[after - 1])
    return float(roc_auc_score(same, scores)), float(error)
