"""A batch in parts: the gradients of the whole batch, where the loss is a mean over images."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_stage import (
    BATCH,
    INFO,
    LABELS,
    NORMALIZATION,
    ORDER,
    SET,
    dense_frozen,
    dense_stage,
)

from kd_jax import losses
from kd_jax.core.devices import data_mesh
from kd_jax.core.errors import UsageError
from kd_jax.data import ResidentLoader
from kd_jax.data.preprocessing import Augmentation, View, Views
from kd_jax.methods import CRD, KD, Adapters, Method, Supervised
from kd_jax.models import Outputs, norms
from kd_jax.training import init_state, train_step
from kd_jax.training.accumulation import accumulated
from kd_jax.training.execution import EXECUTIONS


def close(found, expected, **tolerances):
    jax.tree.map(functools.partial(np.testing.assert_allclose, **tolerances), found, expected)


def step(stage, state, frozen, batch, **options):
    return jax.jit(functools.partial(train_step, stage, **options))(state, frozen, batch)


@pytest.mark.parametrize("unroll", [True, False])
def test_the_parts_of_a_mean_give_the_step_of_the_whole_batch(unroll):
    stage = dense_stage(KD())
    frozen = dense_frozen(stage)
    state = init_state(stage, BATCH, frozen)
    whole = step(stage, state, frozen, BATCH)
    parts = dataclasses.replace(stage, accumulate=4)
    close(step(parts, state, frozen, BATCH, unroll=unroll), whole, rtol=1e-6, atol=1e-7)


def viewed(execution, devices, method, accumulate):
    """Returns the state and metrics of one step on augmented images, without batch norm."""
    mesh = data_mesh(devices)
    views = Views({"student": View((4, 4), NORMALIZATION)}, Augmentation(1, flip=True, mixup=1.0))
    stage = dense_stage(method, views=views, accumulate=accumulate)
    state = init_state(stage, {"image": jnp.zeros((2, 8, 8, 1), jnp.uint8)})
    loader = ResidentLoader(SET, mesh)
    run = EXECUTIONS[execution](stage, mesh, 1)
    return jax.device_get(run(state, {}, loader.images, loader.steps(ORDER, 0, 1)))


@pytest.fixture(scope="module")
def whole():
    """A step in one part, on one device."""
    return viewed("jit", 1, Supervised(), 1)


@pytest.mark.parametrize(
    ("execution", "devices", "parts"),
    [pytest.param("jit", 1, 4, marks=pytest.mark.long), ("jit", 8, 2), ("pmap", 2, 4)],
)
def test_the_same_image_gets_the_same_crop_and_partner(whole, execution, devices, parts):
    found = viewed(execution, devices, Supervised(), parts)
    close(found[0].params, whole[0].params, rtol=1e-5, atol=1e-6)
    close(found[1], whole[1], rtol=1e-5)


@dataclasses.dataclass(frozen=True)
class Pairs(Method):
    """A loss that couples the images of a batch, and a state that counts its calls."""

    roles = ("student",)

    def init(self, key, outputs, batch, statistics, info):
        return Adapters(state={"calls": jnp.zeros((), jnp.int32)})

    def __call__(self, adapters, outputs, batch, *, axis_name=None):
        embedding = outputs["student"].embedding
        target = jax.nn.one_hot(batch["label"], 5)
        loss = losses.similarity_preserving(embedding, target, axis_name=axis_name)
        return loss, {}, {"calls": adapters.state["calls"] + 1}


@pytest.fixture(scope="module")
def pairs():
    """A step in two parts on one device."""
    return viewed("jit", 1, Pairs(), 2)


@pytest.mark.parametrize(("execution", "devices"), [("jit", 8), ("pmap", 2)])
def test_the_parts_do_not_depend_on_the_devices(pairs, execution, devices):
    state, metrics = viewed(execution, devices, Pairs(), 2)
    close(metrics, pairs[1], rtol=1e-5)
    close(state.params, pairs[0].params, rtol=1e-5, atol=1e-6)
    assert state.method_state["calls"] == 2  # carried from part to part


def test_the_memory_of_crd_has_the_images_of_all_parts():
    stage = dense_stage(CRD(width=4, negatives=6), info=INFO, accumulate=2)
    frozen = dense_frozen(stage)
    before = init_state(stage, BATCH, frozen)
    after = step(stage, before, frozen, BATCH)[0].method_state
    for bank in ("student", "teacher"):
        changed = (after[bank] != before.method_state[bank]).any(1)
        np.testing.assert_array_equal(np.flatnonzero(changed), BATCH["index"])
    np.testing.assert_array_equal(after["labels"], np.where(np.arange(48) < 16, LABELS, -1))
    assert (after["partition"] > 0).all()


class Normed(nn.Module):
    """One batch norm."""

    @nn.compact
    def __call__(self, images, *, train):
        x = norms.batch_norm(train=train, axis_name=None)()(images)
        return Outputs(x.mean((1, 2)), x.mean((1, 2)))


def test_a_part_has_every_nth_image_and_its_own_batch_statistics():
    images = np.random.default_rng(0).normal(size=(8, 2, 2, 3)).astype(np.float32)
    batch = {"image": images, "label": LABELS[:8] % 3}
    stage = dense_stage(Supervised(), accumulate=2)
    stage = dataclasses.replace(stage, networks={"student": Normed()})
    state, _ = step(stage, init_state(stage, batch), {}, batch)
    mean = np.zeros(3)
    for part in (images[0::2], images[1::2]):
        mean = 0.9 * mean + 0.1 * part.mean((0, 1, 2))
    found = jax.tree.leaves(state.model_state["student"]["batch_stats"])[0]
    np.testing.assert_allclose(found, mean, rtol=1e-5, atol=1e-7)


def test_gradients_of_bfloat16_parameters_are_summed_in_float32():
    """256 + 1 is 256 in bfloat16: fifteen ones after it would be lost."""
    batch = {"image": jnp.ones(16).at[0].set(256.0), "epoch": 1.0}
    params = {"weight": jnp.zeros((), jnp.bfloat16)}

    def gradients(carried, part, key):
        assert part["image"].shape == (1,) and part["epoch"] == 1.0
        return {"weight": part["image"].sum().astype(jnp.bfloat16)}, {}, carried

    found, _, _ = accumulated(gradients, 16, params, (), batch, jax.random.key(0), unroll=False)
    assert found["weight"].dtype == jnp.bfloat16
    assert found["weight"] == 17  # 271 / 16, rounded once


def test_batches_that_cannot_be_divided():
    stage = dense_stage(Supervised(), accumulate=3)
    state = init_state(stage, BATCH)
    with pytest.raises(UsageError, match="16 images per program does not divide into accumulate"):
        step(stage, state, {}, BATCH)
    with pytest.raises(UsageError, match="accumulate must be 1 or more, not 0"):
        dense_stage(Supervised(), accumulate=0)
