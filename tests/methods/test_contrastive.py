"""CRD with its memory, and InfoNCE. `test_official_updates.py` compares CRD's numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from methods import tiny_networks as tiny
from small_stage import LABELS, train

from kd_jax import losses
from kd_jax.core.errors import UsageError
from kd_jax.methods import CRD, InfoNCE, StageInfo

BOTH = {
    role: tiny.network(tiny.weights(role), tiny.batch()["image"]) for role in ("student", "teacher")
}
METHOD = CRD(width=3, negatives=8)
SHARED = CRD(width=3, negatives=8, shared_negatives=True)


@pytest.fixture(scope="module")
def one_device():
    return train("jit", 1, 4, method=METHOD)[0]


@pytest.mark.parametrize(
    ("execution", "devices"), [pytest.param("jit", 8, marks=pytest.mark.long), ("pmap", 8)]
)
def test_the_memory_is_the_same_on_all_numbers_of_devices(one_device, execution, devices):
    state = train(execution, devices, 4, method=METHOD)[0]
    for name, expected in one_device.method_state.items():
        found = state.method_state[name]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4, err_msg=name)


def test_after_an_epoch_all_classes_are_known(one_device):
    np.testing.assert_array_equal(one_device.method_state["labels"], LABELS)


def test_negatives_are_of_other_classes_or_of_images_that_were_not_seen():
    batch = tiny.batch()
    known = jnp.full(tiny.MEMORY, -1).at[7].set(2)
    arguments = known, batch["index"], batch["label"], jax.random.key(0)
    known, drawn, valid = METHOD._negatives(*arguments, axis_name=None)
    np.testing.assert_array_equal(known[batch["index"]], batch["label"])
    assert (known[drawn] != batch["label"][:, None]).all()
    assert drawn.shape == (tiny.IMAGES, 8)
    assert valid is None
    _, drawn, valid = SHARED._negatives(*arguments, axis_name=None)
    assert drawn.shape == (8,)
    np.testing.assert_array_equal(valid, known[drawn][None] != batch["label"][:, None])
    assert not valid.all()


def test_a_batch_shares_its_negatives_on_all_numbers_of_devices():
    expected, found = (train(*where, 2, method=SHARED) for where in (("jit", 1), ("pmap", 8)))
    np.testing.assert_allclose(found[1]["loss"], expected[1]["loss"], rtol=1e-4)
    for one, other in zip(
        *(jax.tree.leaves(each[0].method_state) for each in (expected, found)), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_the_number_of_images_and_the_indices_are_needed():
    with pytest.raises(UsageError, match="method crd needs the number of training images: pass"):
        METHOD.init(jax.random.key(0), BOTH, tiny.batch(), {}, None)
    adapters = METHOD.init(
        jax.random.key(0), BOTH, tiny.batch(), {}, StageInfo(tiny.MEMORY, tiny.CLASSES, 1, 1)
    )
    with pytest.raises(UsageError, match="batch has no index, which the method crd needs: add it"):
        METHOD(adapters, BOTH, {"label": tiny.batch()["label"]})


def test_info_nce_compares_the_mapped_embeddings():
    method = InfoNCE(width=3, contrast_temperature=0.5)
    adapters = method.init(jax.random.key(0), BOTH, tiny.batch(), {}, None)
    maps = adapters.params["of_student"], adapters.params["of_teacher"]
    mapped = [
        BOTH[role].embedding @ each["linear"]["kernel"] + each["linear"]["bias"][None]
        for role, each in zip(("student", "teacher"), maps, strict=True)
    ]
    _, terms, state = method(adapters, BOTH, tiny.batch())
    np.testing.assert_allclose(
        terms["info_nce"], losses.info_nce(*mapped, temperature=0.5), rtol=1e-5
    )
    assert (state, adapters.state) == ({}, {})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"negatives": 0}, "negatives must be 1 or more, not 0"),
        ({"momentum": 1.0}, r"momentum must be at least 0 and less than 1, not 1\.0"),
        ({"width": 0}, "width must be 1 or more, not 0"),
        ({"contrast_temperature": 0.0}, "temperature must be greater than 0"),
    ],
)
def test_impossible_options_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        CRD(**options)
