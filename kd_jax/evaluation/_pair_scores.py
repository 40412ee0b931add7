"""Scores of pairs: fused embeddings, and counts of right decisions by threshold."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from kd_jax.evaluation._embeddings import as_embeddings
from kd_jax.evaluation.faces.protocols import EQUAL, FUSE, Side


class PairScores:
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


def fused(
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
