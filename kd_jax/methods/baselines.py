"""The field's baselines, as RepDistiller trains them in one stage."""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import jax

from kd_jax import losses
from kd_jax.core.errors import UsageError
from kd_jax.methods.base import Weight, register
from kd_jax.methods.modules import GaussianRegressor, HintRegressor
from kd_jax.methods.transfer import Transfer
from kd_jax.models import LinearMap, Outputs

Pair = tuple[jax.Array, jax.Array]


def _map_pairs(student: Outputs, teacher: Outputs) -> dict[str, Pair]:
    """Returns pairs of maps from the deepest, by name; shallow ones without a partner are left out.

    Raises:
        UsageError: if a network returns no maps.
    """
    pairs = zip(reversed(student.feature_maps), reversed(teacher.feature_maps), strict=False)
    by_name = {f"map{i}": pair for i, pair in enumerate(pairs, start=1)}
    if not by_name:
        raise UsageError(
            "method needs feature maps, but one of the networks returns none: choose rkd, pkt or"
            " cc, or another network."
        )
    return by_name


def _hint(student: Outputs, teacher: Outputs) -> Pair:
    """Returns the maps of the second stage, or of the only one."""
    pairs = list(_map_pairs(student, teacher).values())
    return pairs[max(0, len(pairs) - 2)]


def _sum_over_maps(
    loss: Callable[[jax.Array, jax.Array], jax.Array], student: Outputs, teacher: Outputs
) -> jax.Array:
    """Sums a loss with one value per image over all pairs of maps, each a mean over the images."""
    means = [loss(*pair).mean() for pair in _map_pairs(student, teacher).values()]
    return sum(means[1:], start=means[0])


@register("fitnet")
@dataclasses.dataclass(frozen=True)
class FitNet(Transfer):
    """FitNet, Romero et al., ICLR 2015: the squared distance of a map from a regressed hint."""

    loss_weight: Weight = 100.0
    term: ClassVar[str] = "fitnet"
    adapter_groups: ClassVar[tuple[str, ...]] = ("adapters",)

    def learned(self, student, teacher, axis_name):
        """See `Transfer`."""
        ours, theirs = _hint(student, teacher)
        return {"hint": (HintRegressor(theirs.shape[-1], axis_name=axis_name), ours)}

    def value(self, student, teacher, learned, axis_name):
        """See `Transfer`."""
        del axis_name
        return losses.feature_mse(learned["hint"], _hint(student, teacher)[1]).mean()


@register("at")
@dataclasses.dataclass(frozen=True)
class AT(Transfer):
    """AT, Zagoruyko and Komodakis, ICLR 2017: the distance of attention maps."""

    loss_weight: Weight = 1000.0
    term: ClassVar[str] = "attention_transfer"

    def value(self, student, teacher, learned, axis_name):
        """See `Transfer`."""
        del learned, axis_name
        return _sum_over_maps(losses.attention_transfer, student, teacher)


@register("nst")
@dataclasses.dataclass(frozen=True)
class NST(Transfer):
    """NST, Huang and Wang, 2017: the maximum mean discrepancy of the neurons' selectivity."""

    loss_weight: Weight = 50.0
    term: ClassVar[str] = "neuron_selectivity"

    def value(self, student, teacher, learned, axis_name):
        """See `Transfer`."""
        del learned, axis_name
        return _sum_over_maps(losses.neuron_selectivity, student, teacher)


@register("vid")
@dataclasses.dataclass(frozen=True)
class VID(Transfer):
    """VID, Ahn et al., CVPR 2019: a variational bound of the mutual information of the maps."""

    loss_weight: Weight = 1.0
    term: ClassVar[str] = "variational_information"
    adapter_groups: ClassVar[tuple[str, ...]] = ("adapters",)

    def learned(self, student, teacher, axis_name):
        """See `Transfer`."""
        del axis_name
        pairs = _map_pairs(student, teacher).items()
        return {name: (GaussianRegressor(theirs.shape[-1]), ours) for name, (ours, theirs) in pairs}

    def value(self, student, teacher, learned, axis_name):
        """See `Transfer`."""
        del axis_name
        means = [
            losses.variational_information(learned[name][0], theirs, learned[name][1]).mean()
            for name, (_, theirs) in _map_pairs(student, teacher).items()
        ]
        return sum(means[1:], start=means[0])


@register("rkd")
@dataclasses.dataclass(frozen=True)
class RKD(Transfer):
    """RKD, Park et al., CVPR 2019: the distances of pairs and the angles of triplets.

    Attributes:
        distance_weight: weight of the distances within L.
        angle_weight: weight of the angles within L.
    """

    distance_weight: float = 25.0
    angle_weight: float = 50.0
    term: ClassVar[str] = "rkd"

    def value(self, student, teacher, learned, axis_name):
        """See `Transfer`."""
        del learned
        pair = student.embedding, teacher.embedding
        distances = losses.rkd_distance(*pair, axis_name=axis_name)
        angles = losses.rkd_angle(*pair, axis_name=axis_name)
        return self.distance_weight * distances + self.angle_weight * angles


@register("sp")
@dataclasses.dataclass(frozen=True)
class SP(Transfer):
    """SP, Tung and Mori, ICCV 2019: the similarities of the images of a batch in the last map."""

    loss_weight: Weight = 3000.0
    term: ClassVar[str] = "similarity_preserving"

    def value(self, student, teacher, learned, axis_name):
        """See `Transfer`."""
        del learned
        pair = _map_pairs(student, teacher)["map1"]
        return losses.similarity_preserving(*pair, axis_name=axis_name)


@register("pkt")
@dataclasses.dataclass(frozen=True)
class PKT(Transfer):
    """PKT, Passalis and Tefas, ECCV 2018: the conditional probabilities of the batch's images."""

    loss_weight: Weight = 30000.0
    term: ClassVar[str] = "probabilistic_transfer"

    def value(self, student, teacher, learned, axis_name):
        """See `Transfer`."""
        del learned
        pair = student.embedding, teacher.embedding
        return losses.probabilistic_transfer(*pair, axis_name=axis_name)


@register("cc")
@dataclasses.dataclass(frozen=True)
class CC(Transfer):
    """CC, Peng et al., ICCV 2019: the correlations of linearly mapped embeddings.

    Attributes:
        width: width of the mapped embeddings.
    """

    loss_weight: Weight = 0.02
    width: int = 128
    term: ClassVar[str] = "correlation_congruence"
    adapter_groups: ClassVar[tuple[str, ...]] = ("adapters",)

    def learned(self, student, teacher, axis_name):
        """See `Transfer`."""
        del axis_name
        both = {"student": student, "teacher": teacher}
        return {role: (LinearMap(self.width), outputs.embedding) for role, outputs in both.items()}

    def value(self, student, teacher, learned, axis_name):
        """See `Transfer`."""
        del student, teacher
        pair = learned["student"], learned["teacher"]
        return losses.correlation_congruence(*pair, axis_name=axis_name)
