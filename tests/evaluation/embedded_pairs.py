"""Embeddings of pairs, without a network."""

import numpy as np

from kd_jax.evaluation.faces import PROTOCOLS


def lfw(seed=0, pairs=6000, folds=10, dim=32, noise=1.0, offset=0.0):
    """Embeddings of pairs in the order of LFW's pairs.txt: per fold, half same, then different."""
    rng = np.random.default_rng(seed)
    fold = np.arange(pairs) * folds // pairs
    same = np.arange(pairs) % (pairs // folds) < pairs // folds // 2
    person = rng.normal(size=(pairs, dim))
    other = np.where(same[:, None], person, rng.normal(size=(pairs, dim)))
    shift = offset * rng.normal(size=dim)

    def photographed(who):
        return who + shift + noise * rng.normal(size=who.shape)

    names = ("first", "second", "first_mirrored", "second_mirrored")
    people = (person, other, person, other)
    images = dict(zip(names, map(photographed, people), strict=True))
    return images, {"same": same, "fold": fold}


def separated(pairs=40, folds=4):
    """Pairs of the same person at cosine 1, of different persons at 0."""
    fold = np.arange(pairs) * folds // pairs
    same = np.arange(pairs) % 2 == 0
    first = np.eye(2)[np.arange(pairs) // 2 % 2]
    second = np.where(same[:, None], first, first[:, ::-1])
    return {"first": first, "second": second}, {"same": same, "fold": fold}


def without_mirror(images):
    """Returns the embeddings of the images that are not mirrored."""
    return {name: images[name] for name in ("first", "second")}


def used_by(protocol, images):
    """Returns the embeddings that a protocol of a name uses."""
    return without_mirror(images) if PROTOCOLS[protocol].fuse == "none" else images
