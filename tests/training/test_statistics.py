import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_stage import (
    BATCH,
    IMAGES,
    INPUTS,
    LABELS,
    SET,
    batches,
    dense_frozen,
    dense_stage,
    example,
    init,
    make_stage,
)

from kd_jax.core.devices import data_mesh, replicated
from kd_jax.data import ResidentLoader
from kd_jax.methods import HORKD, KD, Supervised
from kd_jax.training import dataset_statistics, statistics_shapes

STAGE = make_stage(method=HORKD(normalize=False))


@pytest.fixture(scope="module")
def frozen():
    """Variables of the teacher."""
    return {"teacher": jax.jit(lambda: init(STAGE))()["teacher"]}


def check(found, expected):
    np.testing.assert_allclose(found["sums"], expected, rtol=1e-5)
    np.testing.assert_array_equal(found["counts"], np.bincount(LABELS))


def test_class_sums_are_those_of_the_whole_set_for_all_batches_and_devices(frozen):
    views, network = STAGE.views.evaluation(IMAGES), STAGE.networks["teacher"]
    apply = jax.jit(lambda x: network.apply(frozen["teacher"], x, train=False).embedding)
    features = np.asarray(apply(views["teacher"]))
    expected = np.stack([features[label == LABELS].sum(0) for label in range(5)])
    assert statistics_shapes(STAGE, frozen, example())["sums"].shape == expected.shape
    for devices, batch_size in ((1, 48), (8, 16), (2, 10)):  # 48 images fill the last 10 with 2
        mesh = data_mesh(devices)
        placed = jax.device_put(frozen, replicated(mesh))
        loader = ResidentLoader(SET, mesh)
        check(dataset_statistics(STAGE, placed, batches(loader, mesh, batch_size), mesh), expected)


def test_batches_of_a_users_own_need_neither_mesh_nor_mask():
    stage = dense_stage(HORKD(normalize=False))
    frozen = dense_frozen(stage)
    network = stage.networks["teacher"]
    features = np.asarray(network.apply(frozen["teacher"], INPUTS, train=False).embedding)
    expected = np.stack([features[label == LABELS].sum(0) for label in range(5)])
    parts = (slice(0, 20), slice(20, 48))  # batches of different sizes
    one = [{"image": INPUTS[part], "label": LABELS[part]} for part in parts]
    each = [{**batch, "image": {**dict.fromkeys(stage.networks, batch["image"])}} for batch in one]
    for own in (one, each):
        check(dataset_statistics(stage, frozen, iter(own)), expected)
    more = {"image": np.concatenate([INPUTS, INPUTS]), "label": np.concatenate([LABELS, LABELS])}
    more["where"] = np.arange(96) < 48
    check(dataset_statistics(stage, frozen, [more]), expected)


def unread():
    """Fails when a batch is read."""
    raise AssertionError
    yield


def test_a_method_without_statistics_reads_no_batches():
    for method in (Supervised(), KD()):
        stage = dense_stage(method)
        frozen = dense_frozen(stage)
        assert dataset_statistics(stage, frozen, unread()) == {}
        assert statistics_shapes(stage, frozen, BATCH) == {}
        each = {**BATCH, "image": dict.fromkeys(stage.networks, jnp.asarray(INPUTS[:16]))}
        assert statistics_shapes(stage, frozen, each) == {}


def test_options_may_leave_the_statistics_out():
    stage = dense_stage(HORKD(centers="batch", normalize=False))
    frozen = dense_frozen(stage)
    assert dataset_statistics(stage, frozen, [BATCH]) == {}
    assert dataset_statistics(stage, frozen, []) == {}
