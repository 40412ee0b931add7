"""Position of every image among the images of its own class."""

import numpy as np


def positions_in_class(labels: np.ndarray) -> np.ndarray:
    """Returns the number of earlier images of the same class for each image, int64 `[N]`."""
    order = np.argsort(labels, kind="stable")
    sorted_labels = labels[order]
    positions = np.empty(len(labels), np.int64)
    positions[order] = np.arange(len(labels)) - np.searchsorted(sorted_labels, sorted_labels)
    return positions


def ranks_in_class(labels: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Returns the number of images of the same class with a smaller word, int64 `[N]`.

    Args:
        labels: class of each image, int `[N]`.
        words: random number of each image, `[N]`; among equal numbers the earlier image is first.
    """
    order = np.argsort(words, kind="stable")
    ranks = np.empty(len(labels), np.int64)
    ranks[order] = positions_in_class(labels[order])
    return ranks
