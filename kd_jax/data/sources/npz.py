"""A user's own arrays in NumPy's `.npz` format."""

import dataclasses

import numpy as np

from kd_jax.core.errors import UsageError
from kd_jax.data.base import SOURCES, Source, slices
from kd_jax.data.images import ImageSet
from kd_jax.data.npz_files import read_npz

_CLASSES_PER_IMAGE = 10
_CLASSES = 1000  # that are always accepted


@SOURCES.register("npz")
@dataclasses.dataclass(frozen=True)
class Npz(Source):
    """A user's own arrays: `images` uint8 `[N, H, W]` or `[N, H, W, C]`, `labels` integers `[N]`.

    Attributes:
        path: path of the `.npz` file. `{split}` in it is replaced by the name of the split
            (`"flowers_{split}.npz"`). Without `{split}` the file is the split `train`, and
            `data.train_split="train[:80%]"` and `data.test_split="train[80%:]"` divide it.
        num_classes: number of classes; None is the greatest label plus one, which must be at most
            1,000 or ten per image.
    """

    path: str
    num_classes: int | None = None

    def load(self, split: str) -> ImageSet:
        """Reads one split and checks all properties that training needs."""
        base = split.split("[")[0] if "{split}" in self.path else "train"
        path = self.path.replace("{split}", base)
        images, labels = _arrays(path)
        if images.dtype != np.uint8 or images.ndim not in (3, 4) or 0 in images.shape:
            raise UsageError(
                f"images in {path} are {images.dtype} {images.shape}: they must be uint8"
                " [N, H, W] or [N, H, W, C] and not empty."
            )
        if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
            raise UsageError(
                f"labels in {path} are {labels.dtype} {labels.shape}: they must be integers of"
                f" shape ({len(images)},), one per image."
            )
        num_classes = self.num_classes or int(labels.max()) + 1
        if not self.num_classes and num_classes > max(_CLASSES, _CLASSES_PER_IMAGE * len(labels)):
            raise UsageError(
                f"labels in {path} go up to {labels.max()}, but there are only {len(labels)}"
                " images: correct the labels, or set data.source.num_classes."
            )
        if labels.min() < 0 or labels.max() >= num_classes:
            raise UsageError(
                f"labels in {path} go from {labels.min()} to {labels.max()}: they must be between"
                f" 0 and data.source.num_classes - 1 = {num_classes - 1}."
            )
        _, part = slices(split, {base: len(labels)})
        images = images[..., None] if images.ndim == 3 else images
        names = np.arange(len(labels))[part]
        return ImageSet(images[part], labels[part].astype(np.int32), num_classes, names)


def _arrays(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns images and labels of a file."""
    key = f"data.source.path {path!r}"
    remedy = "it must be an .npz file with the arrays `images` and `labels`"
    arrays, present = read_npz(path, ("images", "labels"), key, remedy)
    if len(arrays) < 2:
        names = ", ".join(map(repr, present)) or "nothing"
        raise UsageError(f"{key} holds {names}: {remedy}.")
    return arrays["images"], arrays["labels"]
