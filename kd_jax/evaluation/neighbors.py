"""Nearest images of a gallery, exact, on all devices."""

from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh
from numpy.typing import ArrayLike

from kd_jax.core.devices import data_mesh
from kd_jax.evaluation import _embeddings
from kd_jax.evaluation.device_gallery import DeviceGallery


class Neighbors(NamedTuple):
    """Nearest images of each query, the nearest first.

    Attributes:
        rows: rows of the gallery, int `[Q, K]`; -1 if there is no further image.
        scores: cosine similarities, float32 `[Q, K]`, -1 to 1; `-inf` if there is no further image.
    """

    rows: np.ndarray
    scores: np.ndarray


def nearest_neighbors(
    queries: ArrayLike,
    gallery: ArrayLike,
    k: int,
    *,
    left_out: ArrayLike | None = None,
    mesh: Mesh | None = None,
    block_size: int | None = None,
) -> Neighbors:
    """Finds the images of a gallery with the greatest cosine similarities, by comparing all.

    Scores are float32. Of equal scores the first row of the gallery comes first.

    Args:
        queries: embeddings `[Q, D]`, of any norm.
        gallery: embeddings `[G, D]`, of any norm.
        k: number of images per query, from 1 to G.
        left_out: row of the gallery that each query must not find, such as its own image, int
            `[Q]`; -1 is none. None leaves out no row.
        mesh: devices that share the gallery; None is all.
        block_size: number of scores on each device at once; None depends on the device.

    Returns:
        Rows and scores.

    Raises:
        ValueError: if the shapes do not fit; if embeddings have NaN, infinity, or a row of zeros.
    """
    asked = _embeddings.as_directions(queries, "queries", allow_equal=True)
    known = _embeddings.as_directions(gallery, "gallery", allow_equal=True)
    _embeddings.check_widths(known, asked, "queries")
    _embeddings.check_block(block_size)
    (k,) = _embeddings.as_ranks([k], len(known), "k")
    own = np.full(len(asked), -1) if left_out is None else np.asarray(left_out)
    if own.shape != (len(asked),) or own.dtype.kind not in "iu":
        raise ValueError(f"left_out must be {len(asked)} rows of the gallery or -1, one per query")
    classes = np.zeros(len(known), np.int32)
    shared = DeviceGallery(known, classes, len(asked), mesh or data_mesh(), block_size)
    found = [
        shared.nearest(asked.unit(slice(start, start + shared.step)), part, k)
        for start in range(0, len(asked), shared.step)
        for part in (own[start : start + shared.step],)
    ]
    rows, scores = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return Neighbors(np.where(np.isfinite(scores), rows, -1), scores)
