import sys

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from kd_jax.core.errors import UsageError
from kd_jax.data.preprocessing import FILTERS, check_filter, resampling_matrix, resize

PHOTOS = np.stack(
    [
        load_sample_image(name)[y : y + 32, x : x + 40]
        for name in ("china.jpg", "flower.jpg")
        for y in range(0, 320, 80)
        for x in range(0, 600, 150)
    ]
)


PILLOW = ("bicubic", "bilinear", "box", "lanczos")


@pytest.mark.parametrize("filter", PILLOW)
@pytest.mark.parametrize("size", [(16, 20), (5, 7), (31, 40), (32, 10)])
def test_as_pillow_on_photographs(filter, size):
    theirs = np.stack(
        [
            np.asarray(Image.fromarray(p).resize(size[::-1], Image.Resampling[filter.upper()]))
            for p in PHOTOS
        ]
    )
    ours = np.asarray(resize(jnp.asarray(PHOTOS, jnp.float32), size, filter))
    difference = np.abs(ours - theirs.astype(np.float32))
    assert difference.max() <= 2  # Pillow's weights are fixed-point numbers
    assert (difference > 0).mean() < 0.02


@pytest.mark.parametrize("filter", sorted(set(FILTERS) - set(PILLOW)))
@pytest.mark.parametrize("size", [(16, 20), (5, 7), (32, 10), (64, 60)])
def test_as_opencv_on_photographs(filter, size):
    kind = getattr(cv2, f"INTER_{filter.removeprefix('cv2_').upper()}")
    theirs = np.stack([cv2.resize(p, size[::-1], interpolation=kind) for p in PHOTOS])
    ours = np.asarray(resize(jnp.asarray(PHOTOS, jnp.float32), size, filter))
    difference = np.abs(ours - theirs.astype(np.float32))
    assert difference.max() <= 2
    assert difference.mean() < 0.3


def test_without_opencv_the_error_names_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    resampling_matrix.cache_clear()
    with pytest.raises(UsageError, match="pip install opencv-python-headless"):
        resampling_matrix(9, 4, "cv2_area")


def test_an_unknown_filter_is_named_with_its_key():
    says = r"data.filter = 'cubic' is unknown: choose one of bicubic, cv2_cubic, bilinear, box,"
    with pytest.raises(UsageError, match=says):
        check_filter("cubic", "data.filter")
    for use in (resampling_matrix, lambda *_: resize(jnp.zeros((1, 4, 4, 1)), (2, 2), "cubic")):
        with pytest.raises(UsageError, match="filter = 'cubic' is unknown"):
            use(4, 2, "cubic")


def test_rows_of_the_matrices_sum_to_one():
    for filter in FILTERS:
        matrix = resampling_matrix(32, 12, filter)
        assert matrix.shape == (12, 32)
        np.testing.assert_allclose(matrix.sum(1), 1, rtol=1e-3)


def test_the_same_size_and_constant_images_stay_exactly_the_same():
    images = jnp.asarray(PHOTOS, jnp.float32)
    np.testing.assert_array_equal(resize(images, (32, 40)), images)
    gray = jnp.full((1, 32, 32, 1), 77.0)
    np.testing.assert_array_equal(resize(gray, (9, 13)), np.full((1, 9, 13, 1), 77.0))


def test_overshoot_is_clipped_as_in_real_8_bit_images():
    edge = jnp.asarray(np.repeat([0.0, 255.0], 16)[None, None, :, None], jnp.float32)
    lanczos = resize(jnp.broadcast_to(edge, (1, 32, 32, 1)), (13, 13), "lanczos")
    assert lanczos.min() == 0
    assert lanczos.max() == 255
    assert jnp.array_equal(lanczos, jnp.round(lanczos))


def test_under_jit_on_eight_devices():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.device_put(
        jnp.asarray(PHOTOS, jnp.float32), jax.NamedSharding(mesh, jax.P("data"))
    )
    jitted = jax.jit(resize, static_argnums=1)(spread, (16, 16))
    np.testing.assert_array_equal(jitted, resize(jnp.asarray(PHOTOS, jnp.float32), (16, 16)))
