"""Compares one update of each method with that of its official code.

`official_updates.npz` holds the gradients of the student's weights and of the adapters, in float32,
as `official_updates.py` has computed them with the official code in PyTorch. The networks and
batches are those of `tiny_networks.py`.
"""

import functools
import pathlib

import jax
import numpy as np
import pytest
from methods import tiny_networks as tiny

from kd_jax import methods
from kd_jax.methods import Adapters, StageInfo

FOUND = np.load(pathlib.Path(__file__).with_name("official_updates.npz"))
INFO = StageInfo(tiny.MEMORY, tiny.CLASSES, 2, 1)


class GivenNegatives(methods.CRD):
    """CRD with the negatives of the official update."""

    negatives_of_batch = None

    def _negatives(self, known, index, labels, key, axis_name):
        return known, self.negatives_of_batch, None


WIDTH, QK = 5, 6
DKD = {"temperature": 2.0, "standardize": True, "label_weight": 9.0, "others_weight": 72.0}
KD = {"temperature": 2.0, "standardize": True, "soft_weight": 9.0}
METHODS = {
    "kd": methods.KD(),
    "fitnet": methods.FitNet(),
    "at": methods.AT(),
    "nst": methods.NST(),
    "sp": methods.SP(),
    "rkd": methods.RKD(),
    "pkt": methods.PKT(),
    "cc": methods.CC(width=WIDTH),
    "vid": methods.VID(),
    "paraphraser": methods.Paraphrase(),
    "ft": methods.FT(),
    "ab": methods.AB(),
    "fsp": methods.FSP(),
    "dkd1": methods.DKD(),
    "dkd30": methods.DKD(),
    "kd_standardized": methods.KD(**KD),
    "dkd_standardized": methods.DKD(**DKD),
    "afd": methods.AFD(width=QK),
    "dist": methods.DIST(),
    "reviewkd": methods.ReviewKD(),
}
EPOCHS = {"dkd1": 0.5, "dkd30": 29.5, "dkd_standardized": 29.5, "reviewkd": 29.5}
"""Epochs as numbers of completed epochs; mdistiller counts from 1."""


def flat(tree):
    leaves = [np.ravel(leaf) for leaf in jax.tree.leaves(tree)]
    return np.concatenate(leaves) if leaves else np.zeros(0, np.float32)


@functools.cache
def outputs(role, seed=0):
    return jax.jit(tiny.network)(tiny.weights(role), tiny.batch(seed)["image"])


@functools.cache
def backward(seed):
    """Returns the compiled map from gradients of the student's outputs to those of its weights."""
    images = tiny.batch(seed)["image"]
    weights = tiny.weights("student")
    return jax.jit(lambda gap: jax.vjp(lambda w: tiny.network(w, images), weights)[1](gap)[0])


def update(method, name, adapters, seed=0, teacher="teacher"):
    """Returns the gradients of the student and of the adapters, and the new state."""
    batch = tiny.batch(seed) | {"epoch": np.float32(EPOCHS.get(name, 0)), "step": np.int32(0)}
    batch["key"] = jax.random.key(0)
    frozen = outputs(teacher, seed)

    @jax.jit
    def gradients(student, params, frozen):
        def loss(student, params, frozen):
            both = {"student": student, "teacher": frozen}
            value, _, state = method(Adapters(params, adapters.state), both, batch)
            return value, state

        return jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(student, params, frozen)

    (student, params, frozen), state = gradients(outputs("student", seed), adapters.params, frozen)
    assert not np.any(flat(frozen))  # the teacher does not learn
    assert bool(method.adapter_groups) == bool(adapters.params)
    return flat(backward(seed)(student)), flat(params), state


def start(method, teacher="teacher"):
    both = {"student": outputs("student"), "teacher": outputs(teacher)}
    adapters = method.init(jax.random.key(0), both, tiny.batch(), {}, INFO)
    return adapters.replace(params=tiny.filled(adapters.params, 7))


def assert_near(found, key):
    if key in FOUND:  # methods without adapters have none
        scale = np.abs(FOUND[key]).max()
        np.testing.assert_allclose(found / scale, FOUND[key] / scale, atol=1e-5, err_msg=key)
    else:
        assert not np.any(found), key


@pytest.mark.parametrize("name", METHODS)
def test_one_update_is_that_of_the_official_code(name):
    method = METHODS[name]
    teacher = "same_width" if name == "fsp" else "teacher"
    student, adapters, _ = update(method, name, start(method, teacher), teacher=teacher)
    assert_near(student, f"{name}/student")
    assert_near(adapters, f"{name}/adapters")


def test_two_updates_of_crd_are_those_of_the_official_code():
    """Z stays that of the first batch, and the second batch meets the memory of the first."""
    method = GivenNegatives(width=WIDTH, negatives=tiny.NEGATIVES)
    adapters, rng = start(method), np.random.default_rng(3)
    banks = rng.uniform(-0.5, 0.5, (2, tiny.MEMORY, WIDTH)).astype(np.float32)
    state = adapters.state | dict(zip(("student", "teacher"), banks, strict=True))
    for seed, number in ((0, ""), (1, "1")):
        object.__setattr__(method, "negatives_of_batch", tiny.batch(seed)["negatives"])
        found = update(method, "crd", adapters.replace(state=state), seed)
        for values, part in zip(found, ("student", "adapters"), strict=False):
            assert_near(values, f"crd/{part}{number}")
        state = found[2]
    memory = np.stack([state["student"], state["teacher"]])
    np.testing.assert_allclose(memory, FOUND["crd/memory"], atol=1e-6)
