"""CRD and InfoNCE: find an image's teacher embedding among those of other images."""

import dataclasses
import zlib
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from kd_jax import losses
from kd_jax.core.errors import UsageError
from kd_jax.methods.base import Adapters, Weight, check_temperature, register
from kd_jax.methods.modules import UnitMap
from kd_jax.methods.transfer import Transfer


@dataclasses.dataclass(frozen=True)
class Contrastive(Transfer):
    """The common part: a trained linear map of each network's embedding to unit vectors.

    Attributes:
        width: width of the mapped embeddings.
        contrast_temperature: temperature of the contrastive loss.
    """

    width: int = 128
    contrast_temperature: float = 0.07
    adapter_groups: ClassVar[tuple[str, ...]] = ("adapters",)

    def __post_init__(self):
        check_temperature(self.contrast_temperature)
        if self.width < 1:
            raise ValueError(f"width must be 1 or more, not {self.width}")
        super().__post_init__()

    def learned(self, student, teacher, axis_name):
        """See `Transfer`."""
        del axis_name
        both = {"of_student": student, "of_teacher": teacher}
        return {name: (UnitMap(self.width), outputs.embedding) for name, outputs in both.items()}


@register("info_nce")
@dataclasses.dataclass(frozen=True)
class InfoNCE(Contrastive):
    """InfoNCE, van den Oord et al., 2018: the other images of the batch are the negatives.

    No paper gives a weight for distillation; the default is that of CRD.

    Attributes:
        symmetric: average with the loss that finds the student's embedding of each image, as CLIP.
    """

    loss_weight: Weight = 0.8
    symmetric: bool = False
    term: ClassVar[str] = "info_nce"

    def value(self, student, teacher, learned, axis_name):
        """See `Transfer`."""
        del student, teacher
        return losses.info_nce(
            learned["of_student"],
            learned["of_teacher"],
            temperature=self.contrast_temperature,
            symmetric=self.symmetric,
            axis_name=axis_name,
        )


@register("crd")
@dataclasses.dataclass(frozen=True)
class CRD(Contrastive):
    """CRD, Tian et al., ICLR 2020: a memory of all training images gives the negatives.

    The state of the method holds the memories of both networks, the constants Z of the first batch,
    and the classes of the images that have been in a batch. Negatives are drawn among the images of
    other classes and those that have not been in a batch. The memory of the latter is still random
    and does not depend on their class. From the second epoch on, all negatives are of other
    classes. `soft_weight=1` gives RepDistiller's CRD+KD.

    The training set needs two classes or more. The memories have `2 * num_images * width` numbers
    on every device, and are part of the checkpoints.

    Attributes:
        negatives: number K of negatives of each image.
        shared_negatives: draw one set of K images per step for the whole batch, and leave those of
            an image's own class out. The cost then does not depend on the number of training
            images. The default draws K images of other classes for each image.
        momentum: weight of the old row when a row of the memory is replaced.
    """

    loss_weight: Weight = 0.8
    negatives: int = 16384
    shared_negatives: bool = False
    momentum: float = 0.5
    term: ClassVar[str] = "contrastive_representation"

    def __post_init__(self):
        super().__post_init__()
        if self.negatives < 1:
            raise ValueError(f"negatives must be 1 or more, not {self.negatives}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be at least 0 and less than 1, not {self.momentum}")

    def init(self, key, outputs, batch, statistics, info):
        """Makes the maps and an empty memory.

        Raises:
            UsageError: if the number of training images is unknown.
        """
        if info is None:
            raise UsageError(
                "method crd needs the number of training images: pass info=StageInfo(...) to the"
                " Stage."
            )
        own = jax.random.fold_in(key, zlib.crc32(b"memory"))
        memory = losses.contrast_memory(own, info.num_images, self.width)
        state = {
            "student": memory.student,
            "teacher": memory.teacher,
            "partition": memory.partition,
            "labels": jnp.full(info.num_images, -1, jnp.int32),
        }
        params = super().init(key, outputs, batch, statistics, info).params
        return Adapters(params, state)

    def value_and_state(self, state, student, teacher, learned, batch, axis_name):
        """See `Transfer`."""
        del student, teacher
        for name in ("label", "index", "key"):
            if name not in batch:
                raise UsageError(f"batch has no {name}, which the method crd needs: add it.")
        index = batch["index"].astype(jnp.int32)
        labels = batch["label"]
        labels = (labels.argmax(1) if labels.ndim == 2 else labels).astype(jnp.int32)
        known, negatives, valid = self._negatives(
            state["labels"], index, labels, batch["key"], axis_name
        )
        loss, memory = losses.contrastive_representation(
            learned["of_student"],
            learned["of_teacher"],
            losses.ContrastMemory(state["student"], state["teacher"], state["partition"]),
            index=index,
            negatives=negatives,
            valid=valid,
            temperature=self.contrast_temperature,
            momentum=self.momentum,
            axis_name=axis_name,
        )
        return loss, {**memory._asdict(), "labels": known}

    def _negatives(
        self,
        known: jax.Array,
        index: jax.Array,
        labels: jax.Array,
        key: jax.Array,
        axis_name: str | None,
    ) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        """Returns the known classes `[n]`, now with those of the batch, and the negatives.

        The negatives are `[N, K]` and None, or `[K]` and the mask of the valid ones `[N, K]`. Every
        device draws those of the whole batch, so that the numbers do not depend on the number of
        devices.
        """
        rows, own = len(index), labels
        if axis_name is not None:
            index, labels = lax.all_gather((index, labels), axis_name, tiled=True)
        known = known.at[index].set(labels)
        key = jax.random.fold_in(key, zlib.crc32(b"negatives"))
        if self.shared_negatives:
            return known, *losses.shared_contrast_negatives(key, own, known, self.negatives)
        drawn = losses.contrast_negatives(key, labels, known, self.negatives)
        if axis_name is not None:
            drawn = lax.dynamic_slice_in_dim(drawn, rows * lax.axis_index(axis_name), rows)
        return known, drawn, None
