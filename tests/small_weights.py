"""Small files of weights: of a PyTorch original, and under the names of Flax."""

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from kd_jax import models
from kd_jax.pretrained.pytorch.tables import FAMILIES


def random_variables(network, shape):
    """Returns random variables of a network for images of a shape `(H, W, C)`."""
    image = jnp.zeros((1, *shape))
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), image, train=False))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.uniform(0.1, 1, leaf.shape).astype(np.float32), shapes)


def write_pytorch(path, name="resnet8", *, shape=(8, 8, 3), classes=10, table=1, **options):
    """Writes a file with the names of a table of the network; returns network and variables."""
    network = models.create(name, num_classes=classes, **options)
    variables = random_variables(network, shape)
    arrays = {}
    entries = FAMILIES[type(network)](network, shape[:2])[table].entries(variables)[0]
    for word, entry in entries.items():
        leaf = variables
        for key in entry.path:
            leaf = leaf[key]
        arrays[f"module.{word}"] = entry.layout.to_pytorch(leaf)
    np.savez(path, **arrays)
    return network, variables


def write_flax(path, name="tiny", *, shape=(8, 8, 1), classes=10, **options):
    """Writes a file whose names are the paths in Flax; returns the network and its variables."""
    network = models.create(name, num_classes=classes, **options)
    variables = random_variables(network, shape)
    np.savez(path, **flatten_dict(variables, sep="/"))
    return network, variables
