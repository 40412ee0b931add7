"""Comparison of an exported file with the network that it was exported from."""

from typing import Any, NamedTuple

import numpy as np

from kd_jax.core.errors import UsageError
from kd_jax.pretrained.exporting import OUTPUTS, Program

TOLERANCES = {"exact": 1e-3, "rounded": 0.05}
"""Greatest allowed differences of probabilities, and of embeddings relative to their greatest
number. Programs add in other orders, and differ by less than 1e-4. Where a program rounds, in
resized images to gray levels or in a network of bfloat16, a sum near .5 may be rounded otherwise:
such differences are up to 4e-3 in CIFAR-10's ResNet-20 for images of 48x48."""
_BATCH = 64


class Agreement(NamedTuple):
    """The greatest differences between the outputs of a file and those of its network.

    Attributes:
        images: number of images.
        differences: greatest absolute difference of each output.
        embedding_scale: greatest absolute number in the embeddings of the network.
        other_classes: number of images whose most probable class differs.
        accuracy: accuracy of the file; None without labels.
        network_accuracy: accuracy of the network; None without labels.
    """

    images: int
    differences: dict[str, float]
    embedding_scale: float
    other_classes: int
    accuracy: float | None = None
    network_accuracy: float | None = None

    def check(self, tolerance: str) -> None:
        """Raises `UsageError` if a difference is too great.

        Args:
            tolerance: a name in `TOLERANCES`.
        """
        probabilities = self.differences["probabilities"]
        embedding = self.differences["embedding"] / max(self.embedding_scale, 1e-12)
        # Written so that NaN fails.
        if not (probabilities <= TOLERANCES[tolerance] and embedding <= TOLERANCES[tolerance]):
            raise UsageError(
                f"The exported file differs from the network by {probabilities:.2g} in"
                f" probabilities and by {embedding:.2g} of the greatest number in embeddings, more"
                f" than {TOLERANCES[tolerance]}: export another format."
            )

    def to_json(self) -> dict[str, Any]:
        """Returns the result as `json.dumps` takes it."""
        values = {
            "images": self.images,
            "greatest_differences": self.differences,
            "images_of_another_class": self.other_classes,
        }
        if self.accuracy is not None:
            values |= {"accuracy": self.accuracy, "accuracy_of_the_network": self.network_accuracy}
        return values


def compare(
    file: Program, network: Program, images: np.ndarray, labels: np.ndarray | None = None
) -> Agreement:
    """Compares a file with its network.

    The file gets batches of 1 and of up to 64 images.

    Args:
        file: the program of the file.
        network: the network.
        images: uint8 `[N, H, W, C]`.
        labels: class of each image, `[N]`; None if they are not known.
    """
    starts = [0, *range(1, len(images), _BATCH)]
    ends = [*starts[1:], len(images)]
    parts = [file(images[start:end]) for start, end in zip(starts, ends, strict=True)]
    ours = {name: np.concatenate([np.asarray(part[name]) for part in parts]) for name in OUTPUTS}
    theirs = _padded(network, images)
    classes = [outputs["logits"].argmax(1) for outputs in (ours, theirs)]
    rates = [None if labels is None else float((found == labels).mean()) for found in classes]
    return Agreement(
        images=len(images),
        differences={name: float(np.abs(ours[name] - theirs[name]).max()) for name in OUTPUTS},
        embedding_scale=float(np.abs(theirs["embedding"]).max()),
        other_classes=int((classes[0] != classes[1]).sum()),
        accuracy=rates[0],
        network_accuracy=rates[1],
    )


def _padded(network: Program, images: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the outputs in batches of 64; the last one repeats images, so that all are equal."""
    parts = []
    for start in range(0, len(images), _BATCH):
        rows = np.arange(start, start + _BATCH) % len(images)
        outputs, number = network(images[rows]), min(_BATCH, len(images) - start)
        parts.append({name: np.asarray(outputs[name][:number]) for name in OUTPUTS})
    return {name: np.concatenate([part[name] for part in parts]) for name in OUTPUTS}


def generated_images(number: int, shape: tuple[int, int, int]) -> np.ndarray:
    """Returns images of random blocks with noise, uint8 `[number, *shape]`, always the same."""
    rng = np.random.default_rng(0)
    height, width, channels = shape
    blocks = rng.uniform(0, 256, (number, 4, 4, channels))
    rows, columns = (np.arange(side) * 4 // side for side in (height, width))
    smooth = blocks[:, rows][:, :, columns]
    return np.clip(smooth + rng.normal(0, 20, smooth.shape), 0, 255).astype(np.uint8)
