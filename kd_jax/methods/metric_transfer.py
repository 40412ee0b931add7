"""Distillation of embeddings for retrieval."""

import dataclasses
from typing import ClassVar

from kd_jax import losses
from kd_jax.methods.base import Weight, register
from kd_jax.methods.transfer import Transfer


@register("darkrank")
@dataclasses.dataclass(frozen=True)
class DarkRank(Transfer):
    """DarkRank, Chen et al., AAAI 2018: the likelihood of the teacher's ranking of neighbors.

    It is the hard transfer, as in lenscloth/RKD. `loss` is usually a loss of metric learning. The
    embeddings are taken unchanged; the defaults fit embeddings of unit length, see
    `normalize_embedding` in the options of the networks.

    Attributes:
        alpha: factor of the scores. The script of lenscloth/RKD has 2, its class 3.
        beta: power of the distance in the scores.
        neighbors: number of the teacher's nearest images that are ranked.
    """

    loss_weight: Weight = 1.0
    alpha: float = 2.0
    beta: float = 3.0
    neighbors: int = 4
    term: ClassVar[str] = "neighbor_ranking"

    def __post_init__(self):
        super().__post_init__()
        if not self.alpha > 0:
            raise ValueError(f"alpha must be greater than 0, not {self.alpha}")
        if not self.beta >= 1 or self.neighbors < 1:
            raise ValueError(
                f"beta and neighbors must be 1 or more, not {self.beta} and {self.neighbors}"
            )

    def value(self, student, teacher, learned, axis_name):
        """See `Transfer`."""
        del learned
        return losses.neighbor_ranking(
            student.embedding,
            teacher.embedding,
            alpha=self.alpha,
            beta=self.beta,
            neighbors=self.neighbors,
            axis_name=axis_name,
        )


@register("mkd")
@dataclasses.dataclass(frozen=True)
class MKD(Transfer):
    """MKD, Yu et al., CVPR 2019: the absolute and the relative teacher, on unit embeddings.

    The authors take one of the two and add the triplet loss: `loss="triplet"` with the option
    `mining="batch_hard"` and margin 0. Their scripts have N = 32, and the weights 1, 1.5 and 2
    (absolute) or 0.3, 0.1 and 1 (relative) for CUB, Cars and SOP. The relative teacher grows with
    N. The absolute teacher needs embeddings of one width.

    Attributes:
        absolute_weight: weight within L of the mean distance between student and teacher.
        relative_weight: weight within L of the norm of the difference of the distance matrices.
    """

    loss_weight: Weight = 1.0
    absolute_weight: float = 0.0
    relative_weight: float = 0.3
    term: ClassVar[str] = "mkd"

    def __post_init__(self):
        super().__post_init__()
        if not self.absolute_weight and not self.relative_weight:
            raise ValueError("absolute_weight or relative_weight must be greater than 0")

    def value(self, student, teacher, learned, axis_name):
        """See `Transfer`."""
        del learned
        pair = student.embedding, teacher.embedding
        parts = []
        if self.absolute_weight:
            parts.append(self.absolute_weight * losses.normalized_feature_l2(*pair).mean())
        if self.relative_weight:
            gap = losses.distance_matrix_gap(*pair, axis_name=axis_name)
            parts.append(self.relative_weight * gap)
        return sum(parts[1:], start=parts[0])
