"""Identification: which of the known persons is on an image."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from kd_jax.evaluation import _embeddings


@dataclasses.dataclass(frozen=True)
class Identification:
    """What `identification` found.

    Attributes:
        cmc: by rank k, the share of the probes with a mate among the k nearest gallery images.
        probes: number of probe images.
        gallery: number of gallery images.
        identities: number of identities in the gallery.
        distractors: number of gallery images of identities that no probe has.
    """

    cmc: Mapping[int, float]
    probes: int
    gallery: int
    identities: int
    distractors: int

    def to_json(self) -> dict[str, Any]:
        """The result as `json.dumps` takes it."""
        return dataclasses.asdict(self) | {"cmc": {str(k): v for k, v in self.cmc.items()}}


def identification(
    gallery: ArrayLike,
    gallery_labels: ArrayLike,
    probes: ArrayLike,
    probe_labels: ArrayLike,
    *,
    ranks: Iterable[int] = (1, 5, 10),
    block_size: int = _embeddings.SCORES_AT_ONCE,
) -> Identification:
    """Closed-set identification by cosine similarity: the cumulative match characteristic (CMC).

    A rank counts gallery images, not identities, of which any number may show one person; a probe
    succeeds at rank k if one of its k nearest is a mate. Pessimistic: an image of another identity
    with an equal score, to 1e-12, stands before the mate.

    Args:
        gallery: embeddings `[G, D]` of known images, of two identities or more; identities that no
            probe has (distractors) are welcome.
        gallery_labels: identities `[G]`, whole numbers or words.
        probes: embeddings `[P, D]` of the images to identify, of any length like the gallery's.
        probe_labels: identities `[P]`.
        ranks: each from 1 to G.
        block_size: scores in memory at once, at least one probe's; changes no result.

    Returns:
        Shares 0 to 1 by rank, and what they were measured on.

    Raises:
        ValueError: the shapes do not fit; embeddings with NaN, infinity, a row of zeros or one
            direction for all images; a gallery of one identity; a probe without a mate.

    References:
        PFE and AdaFace compute the same as `DIR_FAR` at FAR 1, but for ties.
    """
    known = _embeddings.as_embeddings(gallery, "gallery")
    seen = _embeddings.as_embeddings(probes, "probes")
    if known.shape[1] != seen.shape[1]:
        raise ValueError(
            f"gallery has {known.shape[1]} columns and probes {seen.shape[1]}: embed both by"
            " networks of one embedding space"
        )
    known_labels = _embeddings.as_labels(gallery_labels, len(known), "gallery_labels")
    seen_labels = _embeddings.as_labels(probe_labels, len(seen), "probe_labels")
    ranks = _embeddings.as_ranks(ranks, len(known), "ranks")
    identities = np.unique(known_labels)
    if len(identities) < 2:
        raise ValueError("the gallery has one identity, which every probe would find: add others")
    strangers = np.flatnonzero(~np.isin(seen_labels, identities))
    if strangers.size:
        raise ValueError(
            f"{strangers.size} of {len(seen)} probes have no mate in the gallery, row"
            f" {strangers[0]} (label {seen_labels[strangers[0]]}) first: leave them out, the set"
            " is closed"
        )
    found = _embeddings.mate_ranks(
        _embeddings.unit_rows(seen, "probes"),
        seen_labels,
        _embeddings.unit_rows(known, "gallery"),
        known_labels,
        block_size=block_size,
    )
    return Identification(
        cmc={rank: float(np.mean(found <= rank)) for rank in ranks},
        probes=len(seen),
        gallery=len(known),
        identities=len(identities),
        distractors=int(np.sum(~np.isin(known_labels, seen_labels))),
    )
