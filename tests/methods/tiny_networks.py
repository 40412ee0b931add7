"""Two tiny networks with given weights, for comparisons with official code.

A network has a convolution of stem, three convolutional stages, pooling and a classifier. Its
outputs are all maps before and after their ReLU.
"""

import zlib

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.models import Outputs

IMAGES, CLASSES, MEMORY, NEGATIVES = 6, 5, 12, 4
STRIDES = {"stem": 1, "stage1": 1, "stage2": 2, "stage3": 2}
WIDTHS = {"student": (4, 4, 6, 8), "teacher": (4, 4, 7, 8), "same_width": (4, 4, 6, 8)}
"""Channels of stem and stages. The networks of FSP must have the same."""


def filled(tree, seed, scale=0.3):
    """Returns a tree of the same shapes with numbers that depend on the names and the seed."""

    def fill(path, leaf):
        name = jax.tree_util.keystr(path)
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        values = (scale * rng.normal(size=np.shape(leaf))).astype(np.float32)
        return values + np.float32(name.endswith("['scale']"))

    return jax.tree_util.tree_map_with_path(fill, tree)


def weights(role):
    """Returns the weights of a network."""
    channels, tree = 3, {}
    for name, width in zip(STRIDES, WIDTHS[role], strict=True):
        tree[name] = np.zeros((3, 3, channels, width))
        channels = width
    tree["classifier"] = {"kernel": np.zeros((channels, CLASSES)), "bias": np.zeros(CLASSES)}
    return filled(tree, zlib.crc32(role.encode()))


def batch(seed=0):
    """Returns images `[N, 8, 8, 3]`, labels, indices and the memory's rows that are negatives."""
    rng = np.random.default_rng(seed)
    index = rng.permutation(MEMORY)[:IMAGES].astype(np.int32)
    return {
        "image": rng.normal(size=(IMAGES, 8, 8, 3)).astype(np.float32),
        "label": rng.integers(0, CLASSES, IMAGES).astype(np.int32),
        "index": index,
        "negatives": (index[:, None] + 1 + rng.integers(0, MEMORY - 1, (IMAGES, NEGATIVES)))
        % MEMORY,
    }


def network(params, images):
    """Returns the outputs of a network."""
    x, maps, before = jnp.asarray(images), [], []
    for name, stride in STRIDES.items():
        x = jax.lax.conv_general_dilated(
            x,
            params[name],
            (stride, stride),
            ((1, 1), (1, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=jax.lax.Precision.HIGHEST,
        )
        before.append(x)
        x = jax.nn.relu(x)
        maps.append(x)
    embedding = x.mean((1, 2))
    head = params["classifier"]
    logits = jnp.dot(embedding, head["kernel"], precision="highest") + head["bias"][None]
    stages = tuple(maps[1:])
    return Outputs(logits, embedding, stages, tuple(before[1:]), maps[0], blocks=stages)
