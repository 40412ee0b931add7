"""ReviewKD: the student's maps, fused from deep to shallow, imitate the teacher's."""

import dataclasses
from typing import ClassVar

import jax

from kd_jax import losses
from kd_jax.methods.base import Ramp, Weight, register
from kd_jax.methods.modules import Review
from kd_jax.methods.transfer import MapTransfer, Pair


@register("reviewkd")
@dataclasses.dataclass(frozen=True)
class ReviewKD(MapTransfer):
    """ReviewKD, Chen et al., CVPR 2021: the squared distance of fused maps, in several sizes.

    The maps of the student are those after the activation, the maps of the teacher those before,
    each with the embedding as the deepest map of one pixel. As in mdistiller, the loss grows over
    20 epochs, by one step per epoch. mdistiller's weight depends on the networks, from 0.6 to 8.
    """

    loss_weight: Weight = dataclasses.field(default_factory=lambda: Ramp(1.0, 20.0, per_epoch=True))
    term: ClassVar[str] = "hierarchical_context"
    adapter_groups: ClassVar[tuple[str, ...]] = ("adapters",)

    def pairs(self, student, teacher):
        """Returns the pairs of maps and of embeddings, from shallow to deep."""
        before = teacher.replace(feature_maps=teacher.preactivations)
        ours, theirs = (_as_map(x.embedding) for x in (student, teacher))
        pairs: list[Pair] = super().pairs(student, before)
        return [*pairs, (ours.astype(pairs[0][0].dtype), theirs)]

    def learned(self, student, teacher, axis_name):
        """See `Transfer`."""
        ours, theirs = zip(*self.pairs(student, teacher), strict=True)
        shapes = tuple(tuple(x.shape[1:]) for x in theirs)
        return {"review": (Review(shapes, axis_name=axis_name), ours)}

    def value(self, student, teacher, learned, axis_name):
        """See `Transfer`."""
        del axis_name
        pairs = zip(learned["review"], self.pairs(student, teacher), strict=True)
        means = [losses.hierarchical_context(ours, theirs).mean() for ours, (_, theirs) in pairs]
        return sum(means[1:], start=means[0])


def _as_map(embedding: jax.Array) -> jax.Array:
    """Returns embeddings `[N, D]` as maps of one pixel."""
    return embedding[:, None, None]
