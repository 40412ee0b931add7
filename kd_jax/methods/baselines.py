"""The field's baselines, as RepDistiller trains them in one stage."""

import dataclasses
from typing import ClassVar

from kd_jax import losses
from kd_jax.core.errors import check_choice
from kd_jax.methods.base import Weight, register
from kd_jax.methods.modules import GaussianRegressor, HintRegressor
from kd_jax.methods.transfer import MapTransfer, Transfer, feature_maps
from kd_jax.models import LinearMap


@register("fitnet")
@dataclasses.dataclass(frozen=True)
class FitNet(MapTransfer):
    """FitNet, Romero et al., ICLR 2015: the squared distance of a map from a regressed hint."""

    loss_weight: Weight = 100.0
    term: ClassVar[str] = "fitnet"
    adapter_groups: ClassVar[tuple[str, ...]] = ("adapters",)

    def learned(self, student, teacher, axis_name):
        """See `Transfer`."""
        ours, theirs = self.hint(student, teacher)
        return {"hint": (HintRegressor(theirs.shape[-1], axis_name=axis_name), ours)}

    def value(self, student, teacher, learned, axis_name):
        """See `Transfer`."""
        del axis_name
        return losses.feature_mse(learned["hint"], self.hint(student, teacher)[1]).mean()


@register("at")
@dataclasses.dataclass(frozen=True)
class AT(MapTransfer):
    """AT, Zagoruyko and Komodakis, ICLR 2017: the distance of attention maps."""

    loss_weight: Weight = 1000.0
    term: ClassVar[str] = "attention_transfer"

    def value(self, student, teacher, learned, axis_name):
        """See `Transfer`."""
        del learned, axis_name
        return self.sum_over_pairs(losses.attention_transfer, student, teacher)


@register("nst")
@dataclasses.dataclass(frozen=True)
class NST(MapTransfer):
    """NST, Huang and Wang, 2017: the maximum mean discrepancy of the neurons' selectivity."""

    loss_weight: Weight = 50.0
    term: ClassVar[str] = "neuron_selectivity"

    def value(self, student, teacher, learned, axis_name):
        """See `Transfer`."""
        del learned, axis_name
        return self.sum_over_pairs(losses.neuron_selectivity, student, teacher)


@register("vid")
@dataclasses.dataclass(frozen=True)
class VID(MapTransfer):
    """VID, Ahn et al., CVPR 2019: a variational bound of the mutual information of the maps."""

    loss_weight: Weight = 1.0
    term: ClassVar[str] = "variational_information"
    adapter_groups: ClassVar[tuple[str, ...]] = ("adapters",)

    def learned(self, student, teacher, axis_name):
        """See `Transfer`."""
        del axis_name
        return {
            f"map{i}": (GaussianRegressor(theirs.shape[-1]), ours)
            for i, (ours, theirs) in enumerate(self.pairs(student, teacher), start=1)
        }

    def value(self, student, teacher, learned, axis_name):
        """See `Transfer`."""
        del axis_name
        means = [
            losses.variational_information(mean, theirs, log_scale).mean()
            for (mean, log_scale), (_, theirs) in zip(
                learned.values(), self.pairs(student, teacher), strict=True
            )
        ]
        return sum(means[1:], start=means[0])


@register("rkd")
@dataclasses.dataclass(frozen=True)
class RKD(Transfer):
    """RKD, Park et al., CVPR 2019: the distances of pairs and the angles of triplets.

    For metric learning, the authors train the student by L alone: `hard_weight=0`,
    `distance_weight=1` and `angle_weight=2`, with `normalize_embedding` in the options of the
    teacher's network only.

    Attributes:
        distance_weight: weight of the distances within L.
        angle_weight: weight of the angles within L.
        variant: `repdistiller` compares the embeddings unchanged. `paper` L2-normalizes them first,
            as `run_distill_classification.py` of lenscloth/RKD.
    """

    distance_weight: float = 25.0
    angle_weight: float = 50.0
    variant: str = "repdistiller"
    term: ClassVar[str] = "rkd"

    def __post_init__(self):
        check_choice(self.variant, ("repdistiller", "paper"), "variant")
        super().__post_init__()

    def value(self, student, teacher, learned, axis_name):
        """See `Transfer`."""
        del learned
        pair = student.embedding, teacher.embedding
        distances = losses.rkd_distance(*pair, variant=self.variant, axis_name=axis_name)
        angles = losses.rkd_angle(*pair, variant=self.variant, axis_name=axis_name)
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
        ours, theirs = feature_maps(student, teacher)
        return losses.similarity_preserving(ours[-1], theirs[-1], axis_name=axis_name)


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
