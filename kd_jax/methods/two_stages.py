"""AB, FSP and FT: methods with a first stage that does not train on the labels.

`ab` and `fsp` are the first stages themselves. The second stage starts from their student, with a
new classifier (`init_from`, `init_head=False`), and trains it by `supervised`, as RepDistiller
does, or by `kd`. `paraphraser` is the first stage of `ft`, which takes its adapters
(`adapters_from`). The config `baselines/cifar10` makes both stages.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from kd_jax import losses
from kd_jax.core.errors import UsageError, check_choice
from kd_jax.methods.base import Adapters, Weight, register
from kd_jax.methods.modules import HintRegressor, Paraphraser, Translator
from kd_jax.methods.transfer import MapTransfer, Transfer, feature_maps
from kd_jax.models import Outputs


@register("ab")
@dataclasses.dataclass(frozen=True)
class AB(MapTransfer):
    """The first stage of AB, Heo et al., AAAI 2019: the signs of the maps before their activation.

    L sums over the pairs of maps, with the weight 1 for the deepest, 1/2 for the one before it, and
    so on. A student's map of another shape than the teacher's goes through a 1x1 convolution with
    batch norm first. The classifier of the student learns only if `hard_weight` is not 0.

    Attributes:
        margin: distance from 0 that the student's numbers must reach on the teacher's side.
    """

    loss_weight: Weight = 1.0
    hard_weight: Weight = 0.0
    margin: float = 1.0
    term: ClassVar[str] = "activation_boundary"
    adapter_groups: ClassVar[tuple[str, ...]] = ("adapters",)

    def pairs(self, student, teacher):
        """Returns the pairs of maps before their activation, shallow to deep."""
        student, teacher = (x.replace(feature_maps=x.preactivations) for x in (student, teacher))
        return super().pairs(student, teacher)

    def learned(self, student, teacher, axis_name):
        """See `Transfer`."""
        return {
            f"connector{i}": (HintRegressor(theirs.shape[-1], False, axis_name), ours)
            for i, (ours, theirs) in enumerate(self.pairs(student, teacher), start=1)
            if ours.shape != theirs.shape
        }

    def value(self, student, teacher, learned, axis_name):
        """See `Transfer`."""
        del axis_name
        total = jnp.zeros(())
        for i, (ours, theirs) in enumerate(self.pairs(student, teacher), start=1):
            ours = learned.get(f"connector{i}", ours)
            loss = losses.activation_boundary(ours, theirs, margin=self.margin).mean()
            total = total / 2 + loss
        return total


@register("fsp")
@dataclasses.dataclass(frozen=True)
class FSP(MapTransfer):
    """The first stage of FSP, Yim et al., CVPR 2017: products of the channels of successive maps.

    The maps are those of the stem, where both networks return it, and of the stages. Student and
    teacher must have the same numbers of channels. The classifier of the student learns only if
    `hard_weight` is not 0.
    """

    loss_weight: Weight = 1.0
    hard_weight: Weight = 0.0
    term: ClassVar[str] = "flow_of_solution"

    def value(self, student, teacher, learned, axis_name):
        """See `Transfer`."""
        del learned, axis_name
        ours, theirs = map(list, zip(*self.pairs(student, teacher), strict=True))
        if student.stem is not None and teacher.stem is not None:
            ours, theirs = [student.stem, *ours], [teacher.stem, *theirs]
        widths = [[x.shape[-1] for x in maps] for maps in (ours, theirs)]
        if widths[0] != widths[1] or len(ours) < 2:
            raise UsageError(
                "method fsp needs two or more maps, with the same numbers of channels in both"
                f" networks, but the student has {widths[0]} and the teacher {widths[1]}: choose"
                " networks of one width, or ab."
            )
        return losses.flow_of_solution(ours, theirs).mean()


def _last_maps(student: Outputs, teacher: Outputs) -> tuple[jax.Array, jax.Array]:
    """Returns the last feature map of each network, RepDistiller's `feat[-2]`."""
    ours, theirs = feature_maps(student, teacher)
    return ours[-1], theirs[-1]


@register("paraphraser")
@dataclasses.dataclass(frozen=True)
class Paraphrase(Transfer):
    """The first stage of FT: an autoencoder of the teacher's last feature map.

    L is the mean squared error of the restored map. The student gets no gradient unless
    `hard_weight` is not 0: a stage trains a network, but this one needs only the teacher, so take a
    small network.

    Attributes:
        rate: number of channels of the factor, as a fraction of those of the map.
    """

    hard_weight: Weight = 0.0
    rate: float = 0.5
    term: ClassVar[str] = "paraphraser"
    adapter_groups: ClassVar[tuple[str, ...]] = ("adapters",)

    def __post_init__(self):
        super().__post_init__()
        _check_rate(self.rate)

    def learned(self, student, teacher, axis_name):
        """See `Transfer`."""
        del axis_name
        return {"paraphraser": (Paraphraser(self.rate), _last_maps(teacher, teacher)[1])}

    def value(self, student, teacher, learned, axis_name):
        """See `Transfer`."""
        del axis_name
        restored = learned["paraphraser"][1]
        return losses.feature_mse(restored, _last_maps(teacher, teacher)[1]).mean()


@register("ft")
@dataclasses.dataclass(frozen=True)
class FT(Transfer):
    """The second stage of FT, Kim et al., NeurIPS 2018: the factors of the last feature maps.

    The paraphraser comes from a stage of the method `paraphraser`, by `adapters_from`. Without it,
    the factors of the teacher are those of random weights. It stays as it is at the first step: the
    state of the method keeps it, because weight decay changes the parameters of the adapters.

    Attributes:
        rate: number of channels of the factor, as a fraction of those of the teacher's map.
        variant: `repdistiller` averages over the channels of a factor before it is normalized.
            `paper` normalizes the whole factor.
    """

    loss_weight: Weight = 200.0
    rate: float = 0.5
    variant: str = "repdistiller"
    term: ClassVar[str] = "factor_transfer"
    adapter_groups: ClassVar[tuple[str, ...]] = ("adapters",)

    def __post_init__(self):
        super().__post_init__()
        _check_rate(self.rate)
        check_choice(self.variant, ("repdistiller", "paper"), "variant")

    def learned(self, student, teacher, axis_name):
        """See `Transfer`."""
        ours, theirs = _last_maps(student, teacher)
        factors = int(theirs.shape[-1] * self.rate)
        return {
            "paraphraser": (Paraphraser(self.rate), theirs),
            "translator": (Translator(factors, axis_name), ours),
        }

    def init(self, key, outputs, batch, statistics, info):
        """Makes the modules, and room for the paraphraser of the first step."""
        params = super().init(key, outputs, batch, statistics, info).params
        return Adapters(
            params, {"paraphraser": jax.tree.map(jnp.zeros_like, params["paraphraser"])}
        )

    def __call__(self, adapters, outputs, batch, *, axis_name=None):
        """See `Method`."""
        if "step" not in batch:
            raise UsageError("batch has no step, which the method ft needs: add it.")
        first = batch["step"] == 0
        kept = jax.tree.map(
            lambda new, old: jnp.where(first, jax.lax.stop_gradient(new), old),
            adapters.params["paraphraser"],
            adapters.state["paraphraser"],
        )
        params = {**adapters.params, "paraphraser": kept}
        adapters = Adapters(params, {"paraphraser": kept})
        return super().__call__(adapters, outputs, batch, axis_name=axis_name)

    def value(self, student, teacher, learned, axis_name):
        """See `Transfer`."""
        del student, teacher, axis_name
        factors = learned["translator"], learned["paraphraser"][0]
        return losses.factor_transfer(*factors, variant=self.variant).mean()


def _check_rate(rate: float) -> None:
    if not 0 < rate <= 1:
        raise ValueError(f"rate must be greater than 0 and at most 1, not {rate}")
