"""A tiny network with branches and given weights, for comparisons with official code.

A 1x1 convolution and ReLU are shared. A branch has a 1x1 convolution, ReLU, pooling and a
classifier.
"""

import jax
import jax.numpy as jnp
import numpy as np
from methods import tiny_networks as tiny

from kd_jax.models import Outputs
from kd_jax.models.branches import branch_outputs, shared_by_branches

CLASSES, SHARED, WIDTH, EPOCH = tiny.CLASSES, 4, 16, 7
"""Classes, channels of the shared map and of the last one, and the epoch of the comparison."""


def weights(count):
    """Returns the weights of a network with some branches."""
    branch = {
        "conv": np.zeros((SHARED, WIDTH)),
        "classifier": {"kernel": np.zeros((WIDTH, CLASSES)), "bias": np.zeros(CLASSES)},
    }
    names = ("student", *(f"branch{i}" for i in range(2, count + 1)))
    return tiny.filled({"shared": np.zeros((3, SHARED)), **dict.fromkeys(names, branch)}, 3, 0.8)


def network(params, images, rescale=False):
    """Returns the outputs of the network."""

    def conv(x, kernel):
        return jax.nn.relu(jnp.einsum("nhwc,cd->nhwd", x, kernel, precision="highest"))

    count = len(params) - 1
    shared = conv(images, params["shared"])
    state = shared_by_branches(shared, count, rescale)

    def branch(prefix):
        own = params[prefix.rstrip("_") or "student"]
        last = conv(state, own["conv"])
        embedding, head = last.mean((1, 2)), own["classifier"]
        logits = jnp.dot(embedding, head["kernel"], precision="highest") + head["bias"][None]
        return Outputs(logits, embedding, (shared, last))

    return branch_outputs(count, branch)


def classifiers(modules=2, width=8):
    """Returns given logits and embeddings of a network and of its guided modules."""
    names = ("student", *(f"module{i}" for i in range(1, modules + 1)))
    shapes = {"embedding": np.zeros((tiny.IMAGES, width)), "logits": np.zeros((tiny.IMAGES, 5))}
    return tiny.filled(dict.fromkeys(names, shapes), 5, 1.5)
