"""DKD and DIST: the teacher's predictions as targets, in parts or as correlations."""

import dataclasses
from typing import ClassVar

from kd_jax import losses
from kd_jax.core.errors import UsageError
from kd_jax.methods.base import Ramp, Weight, register
from kd_jax.methods.transfer import Transfer


@register("dkd")
@dataclasses.dataclass(frozen=True)
class DKD(Transfer):
    """DKD, Zhao et al., CVPR 2022: KL for the label, and KL among the other classes.

    `hard_weight * CE + loss_weight * T^2 * (label_weight * TCKD + others_weight * NCKD)`. The
    defaults are mdistiller's for ResNet-32x4 -> ResNet-8x4 on CIFAR-100. Its loss grows over 20
    epochs, by one step per epoch.

    Attributes:
        label_weight: alpha, the weight of TCKD within L.
        others_weight: beta, the weight of NCKD within L.
        standardize: divide the logits of each image by their standard deviation, after their mean
            is subtracted (Sun et al., CVPR 2024). Its code takes the temperature 2 and 9 times the
            weights.
    """

    loss_weight: Weight = dataclasses.field(default_factory=lambda: Ramp(1.0, 20.0, per_epoch=True))
    label_weight: float = 1.0
    others_weight: float = 8.0
    standardize: bool = False
    term: ClassVar[str] = "decoupled_kd"

    def value_and_state(self, state, student, teacher, learned, batch, axis_name):
        """See `Transfer`."""
        del learned, axis_name
        logits = student.logits, teacher.logits
        if self.standardize:
            logits = tuple(map(losses.standardized_logits, logits))

        def value(labels):
            if labels.ndim != 1:
                raise UsageError(
                    "method dkd needs one class per image, int32 [N], but the labels are soft:"
                    " choose kd."
                )
            return losses.decoupled_kd(
                *logits,
                labels,
                alpha=self.label_weight,
                beta=self.others_weight,
                temperature=self.temperature,
            ).mean()

        own = value(batch["label"])
        if (mixed := batch.get("mixed")) is not None:
            own = mixed.weight * own + (1 - mixed.weight) * value(mixed.labels)
        return own, state


@register("dist")
@dataclasses.dataclass(frozen=True)
class DIST(Transfer):
    """DIST, Huang et al., NeurIPS 2022: the correlations of predictions, per image and per class.

    `hard_weight * CE + loss_weight * T^2 * (image_weight * (1 - r_image) + class_weight *
    (1 - r_class))`. The default weights are the paper's beta and gamma, 2 each.

    Attributes:
        temperature: T, at which the softmaxes are taken.
        image_weight: beta, the weight of the correlations over the classes within L.
        class_weight: gamma, the weight of the correlations over the images within L.
    """

    temperature: float = 1.0
    image_weight: float = 2.0
    class_weight: float = 2.0
    term: ClassVar[str] = "dist"

    def value(self, student, teacher, learned, axis_name):
        """See `Transfer`."""
        del learned
        logits, options = (student.logits, teacher.logits), {"temperature": self.temperature}
        images = losses.inter_class_relation(*logits, **options).mean()
        classes = losses.intra_class_relation(*logits, **options, axis_name=axis_name)
        return self.image_weight * images + self.class_weight * classes
