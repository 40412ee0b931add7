"""Verification: decides by a threshold on a score whether two images show the same person.

Published accuracies on Labeled Faces in the Wild (LFW) and similar sets follow different protocols
and are not comparable. Choose one of `PROTOCOLS` and report its name with the number.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from kd_jax.evaluation._embeddings import as_embeddings
from kd_jax.evaluation.faces.protocols import (
    BEST,
    EQUAL,
    FUSE,
    METRICS,
    SCORES,
    Protocol,
    Side,
    protocol_of,
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
    one, other = _fused(first, second, first_mirrored, second_mirrored, protocol.fuse)
    same, fold = as_folds(same, fold, len(one))
    fars = tuple(fars)
    if not all(0 < far < 1 for far in fars):
        raise ValueError(f"fars must be greater than 0 and less than 1, not {fars}")
    metric = METRICS[protocol.metric]
    scores = SCORES[protocol.center](one, other, fold, metric)

    accuracies, thresholds = [], []
    rates: dict[float, list[tuple[float, float]]] = {far: [] for far in fars}
    for k, row in enumerate(scores):
        train = _Scores(row[fold != k], same[fold != k], protocol.equal)
        test = _Scores(row[fold == k], same[fold == k], protocol.equal)
        exact = train.exact_thresholds(metric.ends)
        candidates = exact
        if protocol.thresholds != "exact":
            candidates = metric.sign * np.asarray(protocol.thresholds, np.float64)
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
        std=float(np.std(accuracies)),
        fold_accuracies=tuple(map(float, accuracies)),
        thresholds=tuple(map(float, thresholds)),
        auc=auc,
        eer=eer,
        val_at_far={far: tuple(np.mean(rates[far], axis=0).tolist()) for far in fars},
        protocol=protocol,
    )


class _Scores:
    """Counts pairs by threshold: pairs with greater scores are accepted as the same person.

    Attributes:
        same: scores of the pairs of one person, ascending.
        different: scores of the pairs of two persons, ascending.
    """

    def __init__(self, scores: np.ndarray, same: np.ndarray, equal: str):
        """Sorts the scores.

        Args:
            scores: float64 `[P]`, greater for pairs that are more alike.
            same: bool `[P]`, True for pairs of one person.
            equal: `Protocol.equal`.
        """
        self.same = np.sort(scores[same])
        self.different = np.sort(scores[~same])
        self._equal: Side = EQUAL[equal]

    def __len__(self) -> int:
        return len(self.same) + len(self.different)

    def right(self, thresholds: Any) -> Any:
        """Returns the number of correct decisions for each threshold."""
        return self._accepted(thresholds) + self._rejected(thresholds)

    def val(self, thresholds: Any) -> Any:
        """Returns the fraction of accepted pairs of one person for each threshold."""
        return self._accepted(thresholds) / len(self.same)

    def far(self, thresholds: Any) -> Any:
        """Returns the fraction of accepted pairs of two persons for each threshold."""
        return (len(self.different) - self._rejected(thresholds)) / len(self.different)

    def exact_thresholds(self, ends: tuple[float, float]) -> np.ndarray:
        """Returns one threshold for each way to divide the scores, ascending."""
        distinct = np.unique(np.concatenate([self.same, self.different]))
        middle = distinct[:-1] + np.diff(distinct) / 2
        return np.concatenate([ends[:1], middle, ends[1:]])

    def _accepted(self, thresholds: Any) -> Any:
        return len(self.same) - np.searchsorted(self.same, thresholds, side="right")

    def _rejected(self, thresholds: Any) -> Any:
        return np.searchsorted(self.different, thresholds, side=self._equal)


def _fused(
    first: ArrayLike,
    second: ArrayLike,
    first_mirrored: ArrayLike | None,
    second_mirrored: ArrayLike | None,
    fuse: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Checks the embeddings and fuses those of images and of mirrored images."""
    arrays = {"first": as_embeddings(first, "first"), "second": as_embeddings(second, "second")}
    for name, array in (("first_mirrored", first_mirrored), ("second_mirrored", second_mirrored)):
        if fuse == "none" and array is not None:
            raise ValueError(f"{name} is not used by this protocol, whose fuse is none: omit it")
        if fuse != "none" and array is None:
            raise ValueError(
                f"{name} is missing: this protocol fuses an image and its mirror image by {fuse};"
                " embed the mirror images, too, or choose a protocol whose fuse is none"
            )
        if array is not None:
            arrays[name] = as_embeddings(array, name)
    for name, rows in arrays.items():
        if rows.shape != arrays["first"].shape:
            raise ValueError(
                f"{name} is {list(rows.shape)} and first {list(arrays['first'].shape)}: pass one"
                " row per pair, of one embedding space"
            )
    join = FUSE[fuse]
    return (
        join(arrays["first"], arrays.get("first_mirrored")),
        join(arrays["second"], arrays.get("second_mirrored")),
    )


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
