import jax
import numpy as np
from small_stage import IMAGES, LABELS, SET, example, init, make_stage

from kd_jax.data import Resident
from kd_jax.devices import data_mesh, replicated
from kd_jax.methods import Supervised
from kd_jax.training import dataset_statistics, statistics_shapes


def collect(devices, batch_size, method=None):
    mesh, stage = data_mesh(devices), make_stage(method=method)
    whole = replicated(mesh)
    variables = jax.jit(lambda: init(stage), out_shardings=whole)()
    frozen = {"teacher": variables["teacher"]}
    shapes = statistics_shapes(stage, frozen, example())
    feed = Resident(SET, mesh)
    found = dataset_statistics(stage, frozen, feed, batch_size, mesh, shapes)
    return stage, frozen, shapes, found


def test_class_sums_are_those_of_the_whole_set_whatever_the_batches():
    stage, frozen, shapes, found = collect(1, 48)
    views = stage.views.evaluation(IMAGES)
    network = stage.networks["teacher"]
    features = np.asarray(network.apply(frozen["teacher"], views["teacher"], train=False).embedding)
    expected = np.stack([features[label == LABELS].sum(0) for label in range(5)])
    np.testing.assert_allclose(found["sums"], expected, rtol=1e-5)
    np.testing.assert_array_equal(found["counts"], np.bincount(LABELS))
    assert shapes["sums"].shape == expected.shape
    for devices, batch_size in ((8, 16), (2, 10)):  # 48 images leave a padded batch of 10
        other = collect(devices, batch_size)[3]
        np.testing.assert_allclose(other["sums"], expected, rtol=1e-5)
        np.testing.assert_array_equal(other["counts"], np.bincount(LABELS))


def test_a_method_that_asks_for_nothing_costs_nothing():
    assert collect(1, 16, Supervised())[3] == {}
