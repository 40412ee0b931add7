import flax.linen as nn
import numpy as np
import pytest

from kd_jax.data import ImageSet, Normalisation, Resident, View, Views
from kd_jax.devices import data_mesh, place, replicated
from kd_jax.evaluation import accuracy_evaluator
from kd_jax.models import Outputs

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (37, 2, 2, 1), dtype=np.uint8)
LABELS = RNG.integers(0, 4, 37).astype(np.int32)


class Linear(nn.Module):
    @nn.compact
    def __call__(self, images, *, train):
        del train
        flat = images.reshape(len(images), -1)
        weights = self.param("weights", nn.initializers.normal(1.0), (flat.shape[-1], 4))
        return Outputs(flat @ weights, flat, (), ())


def evaluate(devices, batch_size, weights):
    mesh = data_mesh(devices)
    whole = replicated(mesh)
    feed = Resident(ImageSet(IMAGES, LABELS, 4), mesh)
    views = Views({"student": View((2, 2), Normalisation((0.0,), (1.0,)))})
    run = accuracy_evaluator({"student": Linear()}, views, feed, batch_size, mesh)
    return run({"student": {"params": {"weights": place(weights, whole)}}})["student"]


WEIGHTS = RNG.normal(size=(4, 4)).astype(np.float32)


@pytest.mark.parametrize(("devices", "batch_size"), [(1, 37), (1, 10), (8, 8), (2, 64)])
def test_every_image_counts_once(devices, batch_size):
    logits = (IMAGES.reshape(37, 4) / 255) @ WEIGHTS.astype(np.float64)
    found = evaluate(devices, batch_size, WEIGHTS)
    assert found["accuracy"] == np.mean(logits.argmax(1) == LABELS)
    log_sum = np.log(np.exp(logits).sum(1))
    expected = np.mean(log_sum - logits[np.arange(37), LABELS])
    np.testing.assert_allclose(found["cross_entropy"], expected, rtol=1e-5)


def test_a_network_of_nan_is_never_right():
    assert evaluate(1, 10, np.full((4, 4), np.nan, np.float32))["accuracy"] == 0
