"""A small stage with all parts: batch norm, relations, a learned map, a frozen teacher."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from kd_jax import models
from kd_jax.core.devices import data_mesh, place, replicated, split
from kd_jax.data import BatchOrder, ImageSet, ResidentLoader, batch_of
from kd_jax.data.preprocessing import Augmentation, Normalization, View, Views
from kd_jax.methods import HORKD, StageInfo
from kd_jax.models import layers, norms
from kd_jax.models.branches import branch_outputs
from kd_jax.training import (
    OPTIMIZERS,
    Stage,
    init_network,
    init_state,
    optimizer_groups,
)
from kd_jax.training.execution import EXECUTIONS
from kd_jax.training.statistics import batch_statistics

IMAGES = np.random.default_rng(0).integers(0, 256, (48, 8, 8, 1), dtype=np.uint8)
LABELS = (np.arange(48) % 5).astype(np.int32)
SET = ImageSet(IMAGES, LABELS, 5)
NORMALIZATION = Normalization((0.5,), (0.25,))
ORDER = BatchOrder(seed=0, num_examples=48, batch_size=16)
INFO = StageInfo(num_images=48, num_classes=5, steps=6, steps_per_epoch=3)


@models.register("tiny")
class Tiny(nn.Module):
    """Two convolutions with batch norm: compiles fast. The second one may have branches."""

    num_classes: int
    width: float = 1.0
    branches: int = 1
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images, *, train):
        def layer(x, channels):
            x = layers.convolution(self.dtype)(max(1, int(channels * self.width)), 3, 2)(x)
            return norms.batch_norm(train=train, axis_name=self.axis_name)()(x)

        first = layer(images.astype(self.dtype), 8)

        def branch(prefix):
            last = layer(nn.relu(first), 16)
            embedding = nn.relu(last).astype(jnp.float32).mean((1, 2))
            logits = models.LinearMap(self.num_classes, name=f"{prefix}classifier")(embedding)
            maps = tuple(map(nn.relu, (first, last)))
            return models.Outputs(logits, embedding, maps, (first, last))

        return branch_outputs(self.branches, branch)


class Dense(nn.Module):
    """Two linear layers, which compile fast."""

    num_classes: int = 5
    width: int = 6

    @nn.compact
    def __call__(self, images, *, train):
        x = images.reshape(len(images), -1)
        embedding = nn.tanh(models.LinearMap(self.width, name="hidden")(x))
        return models.Outputs(
            models.LinearMap(self.num_classes, name="classifier")(embedding), embedding
        )


INPUTS = np.random.default_rng(1).normal(size=(48, 3)).astype(np.float32)
BATCH = {"image": INPUTS[:16], "label": LABELS[:16], "index": np.arange(16, dtype=np.int32)}
"""A batch for `dense_stage`."""


def dense_stage(method, **options):
    """Returns a stage of `Dense` networks without views; the teacher is wider."""
    networks = {role: Dense(width=8 if role == "teacher" else 6) for role in method.roles}
    return Stage(networks, method, optax.sgd(0.1), **options)


def dense_frozen(stage):
    """Returns random variables of the frozen networks of a stage without views."""
    return {role: init_network(stage, role, INPUTS[:2]) for role in stage.frozen}


def example():
    """Returns a batch of the shapes of a stage with views."""
    return {
        "image": jnp.zeros((2, 8, 8, 1), jnp.uint8),
        "label": jnp.zeros(2, jnp.int32),
        "index": jnp.zeros(2, jnp.int32),
    }


def make_stage(execution="jit", method=None, mixup=0.0, **teacher):
    """Returns a stage of `Tiny` networks: all have twice the width and resolution of `student`.

    A network without others has as many branches as the method.
    """
    axis = {"axis_name": "data"} if execution == "pmap" else {}
    method = method or HORKD(pair_weight=1.0, triplet_weight=0.0, feature_weight=0.1)
    large = models.create("tiny", num_classes=5, **axis, **{"width": 2.0, **teacher})
    branches = getattr(method, "branches", 1) if method.roles == ("student",) else 1
    small = models.create("tiny", num_classes=5, branches=branches, **axis)
    optimizer = OPTIMIZERS.get("sgd")(learning_rate=0.05, momentum=0.9, weight_decay=5e-4)
    return Stage(
        networks={role: small if role == "student" else large for role in method.roles},
        method=method,
        optimizer=optimizer_groups({"default": optimizer}, method.trained_roles, 6, 3),
        views=Views(
            {
                role: View((4, 4) if role == "student" else (8, 8), NORMALIZATION)
                for role in method.roles
            },
            Augmentation(1, flip=True, mixup=mixup),
        ),
        info=INFO,
    )


def init(stage):
    """Returns variables of all networks."""
    image = example()["image"]
    return {role: init_network(stage, role, image) for role in stage.networks}


def batches(loader, mesh, batch_size=16):
    """Yields the set once, on the devices."""
    for rows in loader.batches(batch_size):
        placed = {name: place(array, split(mesh)) for name, array in rows.items()}
        yield batch_of(loader.images, placed)


def start(stage, mesh):
    """Returns images on the mesh, variables of the frozen networks, and the first state.

    Nothing is compiled as a whole: a second stage uses the same small programs.
    """
    variables = init(stage)
    frozen = {role: variables.pop(role) for role in stage.frozen}
    statistics = batch_statistics(stage, frozen, {"image": IMAGES, "label": LABELS})
    state = init_state(stage, example(), frozen, trained=variables, statistics=statistics)
    return ResidentLoader(SET, mesh), *jax.device_put((frozen, state), replicated(mesh))


def train(execution, devices, steps, chunk=1, **options):
    """Returns the state and the metrics after some steps."""
    mesh = data_mesh(devices)
    stage = make_stage(execution, **options)
    loader, frozen, state = start(stage, mesh)
    run = EXECUTIONS[execution](stage, mesh, chunk)
    metrics = []
    for step in range(0, steps, chunk):
        rows = loader.steps(ORDER, step, chunk)
        state, found = run(state, frozen, loader.images, rows)
        metrics.append(jax.device_get(found))
    joined = jax.tree.map(lambda *values: np.concatenate(values), *metrics)
    return jax.device_get(state), joined
