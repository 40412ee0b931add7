"""A small stage of all there is: batch norm, relations, a learned map, a frozen teacher."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from kd_jax import models
from kd_jax.data import (
    Augmentation,
    BatchOrder,
    ImageSet,
    Normalisation,
    Resident,
    View,
    Views,
)
from kd_jax.devices import data_mesh, replicated
from kd_jax.methods import HybridOrder
from kd_jax.models import layers
from kd_jax.training import (
    EXECUTIONS,
    Stage,
    dataset_statistics,
    init_network,
    init_state,
    optimizer_groups,
    statistics_shapes,
)
from kd_jax.training.optimizers import Sgd

IMAGES = np.random.default_rng(0).integers(0, 256, (48, 8, 8, 1), dtype=np.uint8)
LABELS = (np.arange(48) % 5).astype(np.int32)
SET = ImageSet(IMAGES, LABELS, 5)
NORMALISATION = Normalisation((0.5,), (0.25,))
ORDER = BatchOrder(seed=0, num_examples=48, batch_size=16)


@models.register("tiny")
class Tiny(nn.Module):
    """Two convolutions with batch norm: compiles in a moment."""

    num_classes: int
    width: float = 1.0
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images, *, train):
        x, maps, before = images.astype(self.dtype), [], []
        for channels in (8, 16):
            x = layers.convolution(self.dtype)(max(1, int(channels * self.width)), 3, 2)(x)
            x = layers.batch_norm(train=train, axis_name=self.axis_name)()(x)
            before.append(x)
            x = nn.relu(x)
            maps.append(x)
        embedding = x.astype(jnp.float32).mean((1, 2))
        logits = models.LinearMap(self.num_classes)(embedding)
        return models.Outputs(logits, embedding, tuple(maps), tuple(before))


def example():
    return {
        "image": jnp.zeros((2, 8, 8, 1), jnp.uint8),
        "label": jnp.zeros(2, jnp.int32),
        "index": jnp.zeros(2, jnp.int32),
    }


def make_stage(execution="jit", method=None, trained=("student",), **teacher):
    axis = {"axis_name": "data"} if execution == "pmap" else {}
    networks = {
        "teacher": models.create("tiny", num_classes=5, width=2.0, **axis, **teacher),
        "student": models.create("tiny", num_classes=5, **axis),
    }
    optimizer = Sgd(learning_rate=0.05, weight_decay=5e-4)
    return Stage(
        networks=networks,
        trained=trained,
        method=method or HybridOrder(pair_weight=1.0, triplet_weight=1.0, feature_weight=0.1),
        optimizer=optimizer_groups({"default": optimizer}, trained, 6, 3),
        views=Views(
            {"teacher": View((8, 8), NORMALISATION), "student": View((4, 4), NORMALISATION)},
            Augmentation(1, True),
        ),
    )


def init(stage):
    """Variables of all networks, in one program."""
    image = example()["image"]
    return {role: init_network(stage, role, image) for role in stage.networks}


def start(stage, mesh):
    """Images on the mesh, variables of the frozen networks, first state."""
    whole = replicated(mesh)
    feed = Resident(SET, mesh)
    variables = jax.jit(functools.partial(init, stage), out_shardings=whole)()
    frozen = {role: variables[role] for role in stage.frozen}
    shapes = statistics_shapes(stage, frozen, example())
    statistics = dataset_statistics(stage, frozen, feed, 16, mesh, shapes)

    def fresh(variables, statistics):
        return init_state(stage, variables, example(), statistics)

    return feed, frozen, jax.jit(fresh, out_shardings=whole)(variables, statistics)


def train(execution, devices, steps, chunk=1, **options):
    """The state and the metrics after some steps."""
    mesh = data_mesh(devices)
    stage = make_stage(execution, **options)
    feed, frozen, state = start(stage, mesh)
    run = EXECUTIONS[execution](stage, mesh)
    metrics = []
    for step in range(0, steps, chunk):
        rows = feed.steps(ORDER, step, chunk)
        state, found = run(state, frozen, feed.images, rows)
        metrics.append(jax.device_get(found))
    joined = jax.tree.map(lambda *values: np.concatenate(values), *metrics)
    return jax.device_get(state), joined
