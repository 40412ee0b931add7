import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.core.devices import data_mesh
from kd_jax.core.errors import UsageError
from kd_jax.data.preprocessing import Degradation
from kd_jax.evaluation.embed_sets import SetEmbedder

IMAGES = np.random.default_rng(0).integers(0, 256, (21, 6, 4, 3), dtype=np.uint8)


def embed(factor, images):
    """Every pixel is a feature, so that errors of the order show."""
    return {"pixels": factor * images.reshape(len(images), -1).astype(jnp.float32)}


@pytest.mark.parametrize(("devices", "batch_size"), [(1, 1), (1, 8), (8, 5), (8, 64)])
def test_every_image_once_and_in_order(devices, batch_size):
    embedder = SetEmbedder(embed, data_mesh(devices), batch_size)
    rows = embedder(np.float32(2), IMAGES)["pixels"]
    np.testing.assert_array_equal(rows, 2.0 * IMAGES.reshape(21, -1))


def test_low_resolution_and_mirror_images():
    degradation = Degradation(down="box", up="bilinear")
    embedder = SetEmbedder(embed, data_mesh(8), 8, degradation)
    low = jax.jit(lambda images: degradation.to(images, 3))(IMAGES.astype(np.float32))
    expected = np.asarray(low)[:, :, ::-1].reshape(21, -1)
    rows = embedder(np.float32(1), IMAGES, size=3, mirrored=True)["pixels"]
    np.testing.assert_array_equal(rows, expected)


@pytest.mark.parametrize(
    ("images", "size", "says"),
    [
        (IMAGES[:0], None, "no images to embed"),
        (IMAGES.astype(np.float32), None, "must be uint8 .*, not float32"),
        (IMAGES.astype(np.int64), None, "must be uint8 .*, not int64"),
        (IMAGES[0], None, r"must be uint8 \[N, H, W, C\]"),
        (IMAGES, 0, "cannot be reduced to 0: choose 1 to 6"),
        (IMAGES, 7, "cannot be reduced to 7: choose 1 to 6"),
    ],
)
def test_images_that_cannot_be_embedded_are_refused(images, size, says):
    with pytest.raises(UsageError, match=says):
        SetEmbedder(embed, data_mesh(1), 8)(np.float32(1), images, size=size)
