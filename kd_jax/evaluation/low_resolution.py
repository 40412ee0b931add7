"""Faces at low resolution against sharp ones: LR-LFW, and identification at several sizes."""

from collections.abc import Callable, Iterable

import numpy as np

from kd_jax.data.face_pairs import FacePairs
from kd_jax.evaluation.protocols import Protocol, known_protocol
from kd_jax.evaluation.verification import Verification, verification

Embed = Callable[..., np.ndarray]
"""`(images uint8 [N, H, W, C], size=None or pixels, mirrored=False) -> [N, D]`, as `Embedder`."""

MODES = {"hr_lr": (False, True), "lr_lr": (True, True)}
"""Whether the first and the second image of a pair are reduced: a sharp gallery image against a
low-resolution probe, as in KDim, or both low."""


def lr_verification(
    embed: Embed,
    pairs: FacePairs,
    sizes: Iterable[int | None] = (8, 12, 16, 20, None),
    *,
    mode: str = "hr_lr",
    protocol: str | Protocol = "exact",
) -> dict[int | None, Verification]:
    """Verification of pairs at several sizes of the probe: LR-LFW, if the pairs are LFW's.

    Args:
        embed: the network.
        pairs: sharp images.
        sizes: heights to which probes are reduced; None leaves them sharp.
        mode: a name of `MODES`.
        protocol: of `verification`.

    Returns:
        What `verification` finds for each size.

    Raises:
        ValueError: for an unknown mode or protocol, and whatever `verification` refuses.

    References:
        KDim, Wang et al., ICCVW 2019, section 3.1.
    """
    if mode not in MODES:
        raise ValueError(f"mode {mode!r} is unknown: choose one of {', '.join(MODES)}")
    fuse = known_protocol(protocol).fuse
    found = {}

    def side(places: np.ndarray, size: int | None) -> dict[str, np.ndarray]:
        """Embeddings of the images at `places`, and of their mirror images if they are used."""
        if (key := (places.tobytes(), size)) not in found:
            used, where = np.unique(places, return_inverse=True)
            images = pairs.images[used]
            found[key] = {"plain": embed(images, size=size)[where]}
            if fuse != "none":
                found[key]["mirrored"] = embed(images, size=size, mirrored=True)[where]
        return found[key]

    results = {}
    for size in sizes:
        reduced = [size if low else None for low in MODES[mode]]
        first, second = side(pairs.first, reduced[0]), side(pairs.second, reduced[1])
        results[size] = verification(
            first["plain"],
            second["plain"],
            pairs.same,
            pairs.fold,
            protocol=protocol,
            first_mirrored=first.get("mirrored"),
            second_mirrored=second.get("mirrored"),
        )
    return results
