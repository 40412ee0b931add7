"""Identification: the fraction of images whose person is found among known images."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jax.sharding import Mesh
from numpy.typing import ArrayLike

from kd_jax.core.errors import check_choice
from kd_jax.evaluation import _embeddings
from kd_jax.evaluation.mate_ranks import LabeledSet, mate_ranks

RANKED = ("images", "identities")
"""Objects that a rank of `identification` can count."""


@dataclasses.dataclass(frozen=True)
class Identification:
    """Result of `identification`.

    Attributes:
        cmc: fraction of the probes with a mate among the k nearest gallery images or identities,
            by rank k.
        probes: number of probe images.
        gallery: number of gallery images.
        identities: number of identities in the gallery.
        distractors: number of gallery images of identities that have no probe.
    """

    cmc: Mapping[int, float]
    probes: int
    gallery: int
    identities: int
    distractors: int

    def to_json(self) -> dict[str, Any]:
        """Returns the result as values for `json.dumps`."""
        return dataclasses.asdict(self) | {"cmc": {str(k): v for k, v in self.cmc.items()}}


def identification(
    gallery: ArrayLike,
    gallery_labels: ArrayLike,
    probes: ArrayLike,
    probe_labels: ArrayLike,
    *,
    ranks: Iterable[int] = (1, 5, 10),
    ranked: str = "images",
    mesh: Mesh | None = None,
    block_size: int | None = None,
) -> Identification:
    """Computes closed-set identification by cosine similarity: the cumulative match curve (CMC).

    A probe succeeds at rank k if one of its k nearest gallery images is a mate, an image of its
    identity. With `ranked="identities"` it succeeds if its identity is one of the k nearest, where
    an identity is as near as its nearest image; 1 minus this is the top-K error of a closed set.
    Both are the same at rank 1. An identity can have any number of images. The result is
    pessimistic: of scores that differ by at most 1e-12, those of other identities are ranked first.

    Args:
        gallery: embeddings `[G, D]` of known images of two or more identities. It may contain
            identities that have no probe (distractors).
        gallery_labels: identities `[G]`, integers or strings.
        probes: embeddings `[P, D]` of the images to identify. Embeddings can have any norm.
        probe_labels: identities `[P]`.
        ranks: values of k, each from 1 to the number of ranked images or identities.
        ranked: objects that a rank counts, `"images"` or `"identities"`.
        mesh: devices that share the gallery; None is all. The ranks of identities are computed on
            the host.
        block_size: number of scores in memory at once; it does not change the result. None depends
            on the device.

    Returns:
        Fractions from 0 to 1 by rank, and the sizes of the sets.

    Raises:
        ValueError: if the shapes do not fit; if embeddings have NaN, infinity, a row of zeros or
            one direction for all images; if the gallery has one identity; if a probe has no mate.

    References:
        PFE and AdaFace compute the same numbers as `DIR_FAR` at FAR 1, except for ties.
    """
    known = _embeddings.as_directions(gallery, "gallery")
    unknown = _embeddings.as_directions(probes, "probes")
    _embeddings.check_widths(known, unknown, "probes")
    known_labels = _embeddings.as_labels(gallery_labels, len(known), "gallery_labels")
    labels = _embeddings.as_labels(probe_labels, len(unknown), "probe_labels")
    check_choice(ranked, RANKED, "ranked")
    identities = np.unique(known_labels)
    most = len(known) if ranked == "images" else len(identities)
    ranks = _embeddings.as_ranks(ranks, most, "ranks")
    if len(identities) < 2:
        raise ValueError("gallery has one identity, which every probe would find: add others")
    strangers = np.flatnonzero(~np.isin(labels, identities))
    if strangers.size:
        raise ValueError(
            f"{strangers.size} of {len(unknown)} probes have no mate in the gallery, first row"
            f" {strangers[0]} (label {labels[strangers[0]]}): leave them out, the set is closed"
        )
    if ranked == "identities":
        mates = _embeddings.identity_ranks(
            unknown, labels, known, known_labels, block_size=block_size
        )
    else:
        _, classes = np.unique(np.concatenate([labels, known_labels]), return_inverse=True)
        mates = mate_ranks(
            LabeledSet(unknown, classes[: len(labels)]),
            LabeledSet(known, classes[len(labels) :]),
            ks=ranks,
            mesh=mesh,
            block_size=block_size,
        )[:, 0]
    return Identification(
        cmc={rank: float(np.mean(mates <= rank)) for rank in ranks},
        probes=len(unknown),
        gallery=len(known),
        identities=len(identities),
        distractors=int(np.sum(~np.isin(known_labels, labels))),
    )
