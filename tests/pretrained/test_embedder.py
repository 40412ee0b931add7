import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.core.errors import UsageError
from kd_jax.data.preprocessing import Degradation, Normalization, View, Views
from kd_jax.models import Outputs
from kd_jax.pretrained import Embedder, NetworkInfo, Trained
from kd_jax.pretrained.embedder import check_images

IMAGES = np.random.default_rng(0).integers(0, 256, (21, 14, 12, 3), dtype=np.uint8)


class Small(nn.Module):
    @nn.compact
    def __call__(self, images, *, train):
        del train
        x = nn.relu(nn.Conv(4, (3, 3))(images))
        embedding = nn.Dense(5)(x.reshape(len(x), -1))
        return Outputs(embedding, embedding)


@pytest.fixture(scope="module")
def trained():
    """A network that sees images of 7x6 pixels."""
    view = View((7, 6), Normalization((0.5,) * 3, (0.25,) * 3))
    image = jnp.zeros((1, 7, 6, 3))
    variables = jax.jit(lambda: Small().init(jax.random.key(0), image, train=False))()
    mean, std = view.normalization.mean, view.normalization.std
    info = NetworkInfo("small", {}, 5, view.size, "bicubic", mean, std)
    return Trained(Small(), variables, Views({"student": view}), info)


@pytest.fixture(scope="module")
def embedder(trained):
    return Embedder(trained, batch_size=16)


@pytest.mark.parametrize(("devices", "batch_size"), [(1, 7), (8, 16), (None, 100)])
def test_embeddings_do_not_depend_on_batches_and_devices(trained, devices, batch_size):
    embedder = Embedder(trained, batch_size=batch_size, num_devices=devices)
    expected = jax.jit(trained)(IMAGES).embedding
    np.testing.assert_allclose(embedder(IMAGES), expected, rtol=1e-4, atol=1e-5)


def test_low_resolution_and_mirror_images(trained, embedder):
    low = jax.jit(lambda images: Degradation().to(images, 4))(IMAGES.astype(np.float32))
    expected = jax.jit(trained.outputs)(low).embedding
    np.testing.assert_allclose(embedder(IMAGES, size=4), expected, rtol=1e-4, atol=1e-5)
    mirrored = embedder(IMAGES, mirrored=True)
    np.testing.assert_array_equal(mirrored, embedder(IMAGES[:, :, ::-1]))
    assert not np.allclose(mirrored, embedder(IMAGES))


@pytest.mark.parametrize(
    ("images", "size", "says"),
    [
        (IMAGES[:0], None, "no images to embed"),
        (IMAGES.astype(np.float32), None, "must be uint8 .*, not float32"),
        (IMAGES.astype(np.int64), None, "must be uint8 .*, not int64"),
        (IMAGES[..., :1], None, r"trained on images with 3 channel\(s\), but these images have 1"),
        (IMAGES[:, :12], None, "would be squeezed"),
        (IMAGES[:, :6, :5], None, "Images of 6x5 pixels are smaller than .* the network, 7x6"),
        (IMAGES / 255, None, "must be uint8 .*, not float64"),
        (IMAGES, 15, "cannot be reduced to 15: choose 1 to 14"),
    ],
)
def test_images_that_do_not_fit_are_refused(embedder, images, size, says):
    with pytest.raises(UsageError, match=says) as error:
        embedder(images, size=size)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("images", [IMAGES.astype(np.float32), IMAGES[..., 0], IMAGES[..., :1]])
def test_a_trained_network_refuses_what_is_no_image(trained, images):
    with pytest.raises(
        UsageError, match=r"Images must be uint8 \[N, H, W, 3\] with values 0 to 255"
    ):
        trained(images)


def test_gray_images_in_color_files_fit_a_network_of_gray_images(trained):
    gray = dataclasses.replace(trained.info, mean=(0.5,), std=(0.5,))
    same = np.repeat(IMAGES[..., :1], 3, axis=-1)
    np.testing.assert_array_equal(check_images(same, gray), IMAGES[..., :1])
    with pytest.raises(UsageError, match="with 1 channel"):
        check_images(IMAGES, gray)
