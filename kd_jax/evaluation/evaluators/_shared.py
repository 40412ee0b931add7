"""Code that the evaluators of embeddings share."""

import os
from collections.abc import Iterable

import jax
import numpy as np

from kd_jax.core.errors import UsageError, check_choice, reason
from kd_jax.data.local_files import expanded, open_file
from kd_jax.data.preprocessing import Degradation, check_aspect
from kd_jax.evaluation.base import EvaluationContext, PyTree
from kd_jax.evaluation.embed_sets import SetEmbedder, check_size

Size = tuple[int, int]


def embedder(
    context: EvaluationContext,
    degradation: Degradation | None = None,
    further: str | None = None,
) -> SetEmbedder:
    """Returns a function from variables and images to the embeddings of every name, in a dict.

    Args:
        context: networks and devices.
        degradation: blur and filters of low resolutions; None is the default of `Degradation`.
        further: name of one more network, which need not be evaluated itself.
    """

    def embed(variables: PyTree, images: jax.Array) -> dict[str, jax.Array]:
        outputs = context.predict(variables, images)
        embeddings = {name: outputs[name].embedding for name in context.names}
        if further is None or further in embeddings:
            return embeddings
        every = {} if context.outputs is None else context.outputs(variables, images)
        check_choice(further, (*context.names, *every), "gallery")
        return {**embeddings, further: every[further].embedding}

    return SetEmbedder(embed, context.mesh, context.batch_size, degradation)


def check_options(size: Size | None, probe_sizes: tuple[int, ...]) -> None:
    """Raises `ValueError` for options that fit no images."""
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise ValueError(f"size must be a height and a width, not {size}")
    if any(pixels < 1 for pixels in probe_sizes):
        raise ValueError(f"probe_sizes must be 1 or more pixels, not {probe_sizes}")


def check_readable(path: str, *, folder: bool = False) -> None:
    """Raises `UsageError` if a file, or a folder, cannot be opened. Its content is not read."""
    try:
        if folder:
            os.scandir(expanded(path)).close()
        else:
            open_file(expanded(path)).close()
    except OSError as error:
        kind = "folder of images" if folder else "file of pairs"
        raise UsageError(f"{path} cannot be read ({reason(error)}): name a {kind}.") from error


def check_images(
    images: np.ndarray, context: EvaluationContext, probe_sizes: Iterable[int], name: str
) -> None:
    """Checks images that are not from the training source.

    Args:
        images: uint8 `[N, H, W, C]`.
        context: networks that will embed them.
        probe_sizes: heights to which they will be reduced.
        name: name of the images in errors.

    Raises:
        UsageError: if they do not fit.
    """
    for size in probe_sizes:
        check_size(size, images)
    if context.image_shape is None:
        return
    height, width, channels = context.image_shape
    if images.shape[-1] != channels:
        raise UsageError(
            f"The images of {name} have {images.shape[-1]} channels, but the training images"
            f" {channels}: convert them."
        )
    check_aspect((height, width), images.shape[1:3], "set size to use their center")


def suffixed(metric: str, *parts: str | int | None) -> str:
    """Returns the name of a metric with the parts that are not None, such as `accuracy_8`."""
    return "_".join([metric, *(str(part) for part in parts if part is not None)])
