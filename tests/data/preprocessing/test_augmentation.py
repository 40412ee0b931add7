import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import FAST

from kd_jax.core.devices import data_mesh, split
from kd_jax.data.preprocessing import Augmentation, mixup, random_flip
from kd_jax.data.preprocessing.augmentation import example_keys

IMAGES = np.random.default_rng(0).integers(1, 256, (64, 6, 6, 2), dtype=np.uint8)
KEYS = example_keys(jax.random.key(0), jnp.arange(64))


def test_resized_crops_keep_the_aspect_ratio_and_the_order_of_the_images():
    images = jnp.full((8, 6, 3, 1), jnp.arange(8, dtype=jnp.uint8)[:, None, None, None])
    augment = jax.jit(Augmentation(resized_crop=12), compiler_options=FAST)
    crops = augment(KEYS[:8], images)
    assert (crops.shape, crops.dtype) == ((8, 12, 6, 1), jnp.uint8)
    assert (crops == images[:, :1, :1]).all()


def test_flips_mirror_about_half_of_the_images():
    flipped = np.asarray(random_flip(KEYS, IMAGES))
    same = (flipped == IMAGES).all((1, 2, 3))
    mirrored = (flipped == IMAGES[:, :, ::-1]).all((1, 2, 3))
    assert (same | mirrored).all()
    assert 16 <= mirrored.sum() <= 48  # 32, with a standard deviation of 4


def test_training_crops_anywhere_and_evaluation_in_the_center():
    augmentation = Augmentation(crop=4)
    images = IMAGES[:, :, :5]
    assert augmentation.evaluated_size((6, 5)) == (4, 3)
    np.testing.assert_array_equal(augmentation.evaluated(images), images[:, 1:5, 1:4])
    assert jax.eval_shape(augmentation, KEYS, images).shape == (64, 4, 3, 2)
    both = Augmentation(crop=4, resized_crop=8)
    assert jax.eval_shape(both, KEYS, images).shape == (64, 8, 7, 2)
    np.testing.assert_array_equal(both.evaluated(images), images[:, 1:5, 1:4])
    assert Augmentation(resized_crop=4).evaluated(images) is images


@pytest.mark.parametrize("crop", [{"crop_padding": 2}, {"resized_crop": 5}])
def test_an_image_does_not_depend_on_the_rest_of_the_batch(crop):
    augmentation = jax.jit(Augmentation(flip=True, **crop), compiler_options=FAST)
    whole = augmentation(KEYS, IMAGES)
    np.testing.assert_array_equal(augmentation(KEYS[16:32], IMAGES[16:32]), whole[16:32])
    assert whole.dtype == jnp.uint8


def test_without_crop_and_flip_nothing_changes():
    np.testing.assert_array_equal(Augmentation(mixup=0.5)(KEYS, IMAGES), IMAGES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop_padding": -1}, "crop_padding must be 0 or more"),
        ({"resized_crop": -1}, "resized_crop must be 0 or more"),
        ({"crop": -1}, "^crop must be 0 or more"),
        ({"crop": 6, "crop_padding": 1}, "crop_padding and crop are two crops"),
        ({"resized_crop_scale": (0.16, 1.0)}, "scale is not used without resized_crop: leave"),
        ({"resized_crop_ratio": (1.0, 1.0)}, "ratio is not used without resized_crop: leave"),
        ({"resized_crop": 6, "resized_crop_scale": (0.5, 0.2)}, "must be two numbers above 0 in"),
        ({"resized_crop": 6, "resized_crop_scale": (0.5, 1.2)}, "scale must be at most 1"),
        ({"resized_crop": 6, "resized_crop_ratio": (0.0, 1.0)}, "must be two numbers above 0 in"),
        ({"resized_crop": 6, "resized_crop_ratio": (1.0,)}, "must be two numbers above 0 in order"),
        ({"resized_crop": 6, "crop_padding": 1}, "are two crops: set one of them to 0"),
        ({"mixup": -0.1}, "mixup must be 0 to 1000, not -0.1"),
        ({"mixup": float("nan")}, "mixup must be 0 to 1000"),
        ({"mixup": float("inf")}, "mixup must be 0 to 1000"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**options)


LABELS = jnp.arange(16, dtype=jnp.int32)  # the label of an image is its row
KEY = jax.random.key(3)
MIXED = jax.jit(functools.partial(mixup, alpha=0.4))


@pytest.fixture
def fast():
    jax.config.update("jax_disable_most_optimizations", True)  # reset before every test


@pytest.mark.usefixtures("fast")
def test_mixed_images_are_weighted_means_of_images_and_partners():
    images, (partners, weight) = MIXED(KEY, IMAGES[:16], LABELS)
    assert (images.dtype, partners.dtype, weight.dtype) == (jnp.float32, jnp.int32, jnp.float32)
    assert weight.shape == ()
    assert 0.01 < weight < 0.99
    np.testing.assert_array_equal(np.sort(partners), np.arange(16))
    own, other = IMAGES[:16].astype(np.float64), IMAGES[np.asarray(partners)].astype(np.float64)
    np.testing.assert_allclose(images, weight * own + (1 - weight) * other, rtol=1e-6)
    assert (images != jnp.round(images)).mean() > 0.5  # not rounded to gray levels


@pytest.mark.parametrize("alpha", [1e-4, 1.0])
def test_weights_are_from_a_beta_distribution_and_partners_are_uniform(alpha):
    def draw(key):
        return mixup(key, jnp.zeros((4, 1, 1, 1)), LABELS[:4], alpha=alpha)[1]

    keys = jax.random.split(jax.random.key(1), 20_000)
    partners, weights = jax.jit(jax.vmap(draw), compiler_options=FAST)(keys)
    weights = np.asarray(weights, np.float64)
    assert weights.min() >= 0
    assert weights.max() <= 1
    variance = 1 / (4 * (2 * alpha + 1))
    assert abs(weights.mean() - 0.5) < 4 * np.sqrt(variance / 20_000)
    np.testing.assert_allclose(weights.var(), variance, rtol=0.04)
    for row in np.asarray(partners).T:  # 5,000 of each, with a standard deviation of 61
        assert abs(np.bincount(row, minlength=4) - 5000).max() < 250


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("devices", [1, 2, 8])
def test_mixup_is_the_same_under_jit_and_pmap_on_any_number_of_devices(devices):
    batch = IMAGES[:16], LABELS % 5
    expected = jax.tree.map(np.asarray, MIXED(KEY, *batch))
    mesh = data_mesh(devices)
    if devices > 1:
        spread = MIXED(KEY, *jax.device_put(batch, split(mesh)))
        jax.tree.map(np.testing.assert_array_equal, spread, expected)
    images, (partners, weight) = jax.pmap(
        functools.partial(mixup, alpha=0.4, axis_name="data"),
        axis_name="data",
        in_axes=(None, 0, 0),
        devices=mesh.devices.ravel().tolist(),
    )(KEY, *jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batch))
    np.testing.assert_array_equal(images.reshape(16, 6, 6, 2), expected[0])
    np.testing.assert_array_equal(partners.reshape(16), expected[1].labels)
    np.testing.assert_array_equal(weight, np.full(devices, expected[1].weight))


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
def test_mixup_without_a_distribution_is_refused(alpha):
    with pytest.raises(ValueError, match="alpha must be greater than 0 and finite"):
        mixup(KEY, IMAGES[:16], LABELS, alpha=alpha)
