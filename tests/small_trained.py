"""A small network with random weights: nothing is trained or compiled."""

import jax
import numpy as np
import small_stage  # noqa: F401 - registers the network "tiny"

from kd_jax.data import Fit
from kd_jax.pretrained import NetworkInfo, Trained


def small_trained(channels=1, fit=(8, 8), **options):
    """Returns a network of five named classes that sees images of 4x4 pixels."""
    mean, std = (0.5,) * channels, (0.25,) * channels
    classes = ("zero", "one", "two", "three", "four")
    fit = None if fit is None else Fit(fit, gray=channels == 1)
    info = NetworkInfo("tiny", options, 5, (4, 4), "bicubic", mean, std, classes=classes, fit=fit)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: rng.uniform(0.1, 1, leaf.shape).astype(leaf.dtype), info.shapes(info.module())
    )
    return Trained.of(info, variables)
