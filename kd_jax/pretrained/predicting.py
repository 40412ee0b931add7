"""Classes of image files and arrays of any size and color by a trained network."""

import functools
import itertools
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from kd_jax.core.errors import UsageError
from kd_jax.core.files import PathLike
from kd_jax.data.decoding import pixels
from kd_jax.data.image_files import read_file
from kd_jax.pretrained.classifier import Classifier
from kd_jax.pretrained.info import NetworkInfo

if TYPE_CHECKING:
    import PIL.Image

    from kd_jax.pretrained.weights import Trained

    Image = PathLike | np.ndarray | PIL.Image.Image

_BATCHES = (1, 8, 64)
"""Numbers of images per batch; each is one program."""


class Prediction(NamedTuple):
    """One of the most probable classes of an image.

    Attributes:
        label: number of the class.
        name: name of the class; its number if the network has no names.
        probability: softmax of the logits, 0 to 1.
    """

    label: int
    name: str
    probability: float


class Predictor:
    """Predicts the classes of images of any size and color.

    Each image is brought to the size and color of the training images as `kd_jax.data.Fit` does: it
    is resized until it covers that size, and its center is cut out. A network of gray images sees
    color images in gray. The network then resizes and normalizes them as in its evaluation.
    """

    def __init__(self, trained: "Trained", classes: tuple[str, ...] = ()):
        """Compiles nothing yet.

        Args:
            trained: trained network, as from `kd_jax.load`.
            classes: names of the classes in place of those of the network.
        """
        self._fit, self._info = trained.info.image_fit, trained.info
        self._names = classes or trained.info.class_names

        def classifier(batch_size: int) -> Classifier:
            return Classifier(trained, batch_size=batch_size)

        self._classifier = functools.cache(classifier)

    def __call__(self, images: "Iterable[Image]", *, top_k: int = 5) -> list[list[Prediction]]:
        """Predicts the most probable classes of each image.

        Args:
            images: paths of files, arrays uint8 `[H, W]` or `[H, W, C]`, or images of Pillow. An
                array `[N, H, W, C]` has N images.
            top_k: number of classes per image; networks with fewer classes give all.

        Returns:
            One list per image, the most probable class first.

        Raises:
            UsageError: if an image cannot be read, or is no image of 8 bits per channel.
        """
        if isinstance(images, str | os.PathLike):
            images = [images]
        if top_k < 1:
            raise UsageError(f"top_k must be 1 or more, not {top_k}.")
        found = []
        for block in _blocks(images, _BATCHES[-1]):
            size = min(size for size in _BATCHES if size >= len(block))
            fitted = np.stack([fit_image(image, self._info) for image in block])
            found += [self._best(row, top_k) for row in self._classifier(size)(fitted)]
        return found

    def _best(self, logits: np.ndarray, top_k: int) -> list[Prediction]:
        """Returns the greatest probabilities of one image, of logits `[C]`."""
        weights = np.exp(logits.astype(np.float64) - logits.max())
        probabilities = weights / weights.sum()
        order = np.argsort(-probabilities, kind="stable")[:top_k]
        return [Prediction(int(i), self._names[i], float(probabilities[i])) for i in order]


def fit_image(image: "Image", info: NetworkInfo) -> np.ndarray:
    """Reads an image and brings it to the size and color of a network's training images.

    Args:
        image: path of a file, uint8 `[H, W]` or `[H, W, C]`, or an image of Pillow.
        info: description of the network.

    Returns:
        uint8 `[H, W, C]`.

    Raises:
        UsageError: if it cannot be read, or is no image of 8 bits per channel.
    """
    if isinstance(image, str | os.PathLike):
        name = os.fspath(image)
        return info.image_fit(pixels(read_file(name), name), name)
    name = "an image"
    if not isinstance(image, np.ndarray):
        if image.mode.startswith(("I", "F")):
            raise UsageError(f"{name} of Pillow has the mode {image.mode!r}: convert it to 8 bits.")
        image = image.convert("RGB")
    array = np.asarray(image)
    array = array[..., None] if array.ndim == 2 else array
    if (
        array.dtype != np.uint8
        or array.ndim != 3
        or array.shape[-1] not in (1, 3)
        or not array.size
    ):
        raise UsageError(
            f"{name} is {array.dtype} {list(array.shape)}, but must be uint8 [H, W], [H, W, 1] or"
            " [H, W, 3] with values 0 to 255: convert it."
        )
    return info.image_fit(array, name)


def _blocks(images: "Iterable[Image]", size: int) -> "Iterable[list[Image]]":
    """Yields lists of up to `size` images."""
    rest = iter(images)
    while block := list(itertools.islice(rest, size)):
        yield block
