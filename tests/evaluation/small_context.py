"""An evaluation context whose two networks are linear maps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.core.devices import data_mesh, place, replicated
from kd_jax.data import ImageSet, Loader, ResidentLoader
from kd_jax.data.order import sequential_batches
from kd_jax.data.preprocessing import Degradation
from kd_jax.evaluation import EvaluationContext
from kd_jax.models import Outputs

NAMES = ("student", "teacher")


class HostLoader(Loader):
    """Sends images and labels with every batch, as a streamed set does."""

    def __init__(self, images: ImageSet):
        self.images, self._set = None, images

    def __len__(self):
        return len(self._set)

    def batches(self, batch_size):
        for index, where in sequential_batches(len(self), batch_size):
            image, label = self._set.images[index], self._set.labels[index]
            yield {"index": index, "where": where, "image": image, "label": label}


def weights(num_pixels: int, num_outputs: int) -> dict[str, np.ndarray]:
    """Returns weights [pixels, outputs] by name."""
    rng = np.random.default_rng(3)
    shape = (num_pixels, num_outputs)
    return {name: rng.normal(size=shape).astype(np.float32) for name in NAMES}


def embeddings(images: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns the outputs of one network in float64."""
    return (np.asarray(images, np.float64) / 255 - 0.5).reshape(len(images), -1) @ weights


@functools.partial(jax.jit, static_argnums=1, static_argnames=("down", "up", "blur"))
def reduced(images: jax.Array, size: int, **filters) -> jax.Array:
    """Returns images at a low resolution, enlarged to their size."""
    return Degradation(**filters).to(images.astype(jnp.float32), size)


def make(images: ImageSet | None = None, devices=1, batch_size=8, streamed=False, **options):
    """Returns the context, and a list that grows whenever the networks are traced."""
    mesh, traces = data_mesh(devices), []

    def predict(variables, images):
        assert images.dtype == jnp.uint8
        traces.append(images.shape)
        flat = (images.astype(jnp.float32) / 255 - 0.5).reshape(len(images), -1)
        with jax.default_matmul_precision("highest"):
            outputs = {name: flat @ variables[name] for name in (*NAMES, "unused")}
        return {name: Outputs(x, x) for name, x in outputs.items()}

    def loader(split):
        assert split == "test"
        return HostLoader(images) if streamed else ResidentLoader(images, mesh)

    return EvaluationContext(NAMES, predict, loader, batch_size, mesh, **options), traces


def on_devices(context, weights):
    """Returns the variables of `predict`."""
    whole = replicated(context.mesh)
    arrays = weights | {"unused": weights["student"]}
    return {name: place(array, whole) for name, array in arrays.items()}
