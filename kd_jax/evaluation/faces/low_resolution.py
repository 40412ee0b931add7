"""Verification of faces at low resolution against sharp faces: LR-LFW."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from kd_jax.core.errors import check_choice
from kd_jax.evaluation.faces.pairs import FacePairs
from kd_jax.evaluation.faces.protocols import (
    Protocol,
    protocol_of,
    uncentered,
    with_threshold,
)

if TYPE_CHECKING:
    from kd_jax.evaluation.verification import Verification

Embed = Callable[..., Any]
"""Embedding function `(images, size=None, mirrored=False)`, such as an `Embedder`: from uint8
`[N, H, W, C]` to `[N, D]`, or to a pytree of such arrays. `size` is the height of the low
resolution; None is full resolution."""

MODES = {"hr_lr": (False, True), "lr_lr": (True, True)}
"""Images of a pair that are reduced, (first, second): only the probe, against a sharp gallery image
as in KDim, or both."""


def lr_verification(
    embed: Embed,
    pairs: FacePairs,
    sizes: Iterable[int | None] = (8, 12, 16, 20, None),
    *,
    mode: str = "hr_lr",
    protocol: str | Protocol = "exact",
    threshold: float | FacePairs | None = None,
) -> "dict[int | None, Verification]":
    """Verifies pairs at several sizes of the probe. With LFW's pairs, this is LR-LFW.

    Args:
        embed: embedding function of one network. Its `kd_jax.data.preprocessing.Degradation` has
            the filters that reduce the probes; the default is that of the training images, a
            Gaussian filter and then a reduction.
        pairs: sharp images.
        sizes: heights to which probes are reduced; None is full resolution.
        mode: a name in `MODES`.
        protocol: protocol of `verification`.
        threshold: a threshold that is set beforehand, in the units of the protocol's metric; or
            other pairs, of which the best threshold of each size is used. None chooses the
            threshold of each fold by cross-validation.

    Returns:
        The result of `verification` by size.

    Raises:
        UsageError: if the mode or the protocol is unknown, or the protocol does not allow a
            threshold that is set beforehand.
        ValueError: for all reasons of `verification`.

    References:
        KDim, Wang et al., ICCVW 2019, section 3.1; HORKD, Ge et al., AAAI 2020, section 4.2, for
        the threshold.
    """
    sizes = tuple(sizes)
    embedded = embed_pairs(embed, pairs, sizes, mode=mode, protocol=protocol)
    others = {}
    if isinstance(threshold, FacePairs):
        others = embed_pairs(embed, threshold, sizes, mode=mode, protocol=uncentered(protocol))
    return {
        size: verify_embedded(pairs, embedded[size], protocol, threshold, others.get(size, {}))
        for size in sizes
    }


def verify_embedded(
    pairs: FacePairs,
    sides: Mapping[str, np.ndarray],
    protocol: str | Protocol,
    threshold: float | FacePairs | None,
    threshold_sides: Mapping[str, np.ndarray],
) -> "Verification":
    """Verifies pairs by their embeddings.

    Args:
        pairs: the pairs.
        sides: their embeddings, as from `embed_pairs` for one size.
        protocol: protocol of `verification`.
        threshold: as in `lr_verification`.
        threshold_sides: embeddings of `threshold` if that is pairs; otherwise not used.
    """
    from kd_jax.evaluation.verification import best_threshold, verification  # it imports this

    if isinstance(threshold, FacePairs):
        threshold = best_threshold(same=threshold.same, protocol=protocol, **threshold_sides)
    if threshold is not None:
        protocol = with_threshold(protocol, threshold)
    return verification(same=pairs.same, fold=pairs.fold, protocol=protocol, **sides)


def embed_pairs(
    embed: Embed,
    pairs: FacePairs,
    sizes: Iterable[int | None],
    *,
    mode: str = "hr_lr",
    protocol: str | Protocol = "exact",
) -> dict[int | None, dict[str, Any]]:
    """Embeds the two images of all pairs; no image is embedded twice at one size for one side.

    Args:
        embed: embedding function.
        pairs: sharp images.
        sizes: heights to which probes are reduced; None is full resolution.
        mode: a name in `MODES`.
        protocol: protocol of `verification`; it decides whether mirrored images are embedded.

    Returns:
        By size, the arguments of `verification` that hold embeddings: `first`, `second` and, if the
        protocol uses them, `first_mirrored` and `second_mirrored`. Each is a result of `embed` with
        one row per pair.

    Raises:
        UsageError: if the mode or the protocol is unknown.
    """
    reduced = MODES[check_choice(mode, MODES, "mode")]
    mirrors = (False,) if protocol_of(protocol).fuse == "none" else (False, True)
    places = {"first": pairs.first, "second": pairs.second}

    @functools.cache
    def side(name: str, size: int | None, mirrored: bool) -> Any:
        used, rows = np.unique(places[name], return_inverse=True)
        embeddings = embed(pairs.images[used], size=size, mirrored=mirrored)
        return jax.tree.map(lambda array: array[rows], embeddings)

    return {
        size: {
            f"{name}_mirrored" if mirrored else name: side(name, size if low else None, mirrored)
            for name, low in zip(places, reduced, strict=True)
            for mirrored in mirrors
        }
        for size in sizes
    }
