"""Training loops of a user's own: no views, no config, no loader."""

import functools

import jax
import numpy as np
import optax
import pytest
from small_stage import INPUTS, LABELS, Dense

from kd_jax.methods import HORKD, KD
from kd_jax.training import Stage, dataset_statistics, init_network, init_state, train_step

NETWORKS = {"teacher": Dense(width=8), "student": Dense()}
PARTS = [slice(start, start + 16) for start in (0, 16, 32)]
ONE = [{"image": INPUTS[part], "label": LABELS[part]} for part in PARTS]
EACH = [  # the student sees less than the teacher
    {**batch, "image": {"teacher": batch["image"], "student": batch["image"][:, :2]}}
    for batch in ONE
]


def teacher():
    stage = Stage(NETWORKS, KD(), optax.sgd(0.1))
    return init_network(stage, "teacher", INPUTS)


def kd(variables, batches):
    stage = Stage(NETWORKS, KD(), optax.adam(0.05))
    frozen = {"teacher": variables}
    state = init_state(stage, batches[0], frozen)
    step = jax.jit(functools.partial(train_step, stage))
    losses = []
    for batch in 8 * batches:
        state, metrics = step(state, frozen, batch)
        losses.append(float(metrics["loss"]))
    return losses


def horkd(variables, batches):
    stage = Stage(NETWORKS, HORKD(), optax.sgd(0.1))
    frozen = {"teacher": variables}
    statistics = dataset_statistics(stage, frozen, batches)
    state = init_state(stage, batches[0], frozen, statistics=statistics)
    step = jax.jit(functools.partial(train_step, stage))
    losses = []
    for batch in 8 * batches:
        state, metrics = step(state, frozen, batch)
        losses.append(float(metrics["loss"]))
    return losses


@pytest.mark.parametrize("batches", [ONE, EACH], ids=["one_array", "one_array_per_role"])
@pytest.mark.parametrize("loop", [kd, horkd])
def test_a_loop_of_ten_lines_learns(loop, batches):
    with jax.numpy_dtype_promotion("standard"):  # Adam of optax mixes floats and integers
        found = loop(teacher(), batches)
    assert np.isfinite(found).all()
    assert np.mean(found[-3:]) < np.mean(found[:3])
