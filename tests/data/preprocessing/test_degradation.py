import dataclasses
import functools

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import FAST
from PIL import Image
from scipy.ndimage import gaussian_filter1d
from sklearn.datasets import load_sample_image

from kd_jax.core.errors import UsageError
from kd_jax.data.preprocessing import Degradation
from kd_jax.data.preprocessing.augmentation import example_keys
from kd_jax.data.preprocessing.degradation import gaussian_matrix

PHOTOS = np.stack(
    [
        load_sample_image(name)[y : y + 112, x : x + 96]
        for name in ("china.jpg", "flower.jpg")
        for y in (20, 200)
        for x in (30, 300, 500)
    ]
)
IMAGES = jnp.asarray(PHOTOS, jnp.float32)
KEYS = example_keys(jax.random.key(0), jnp.arange(len(PHOTOS)))


def pillow(name):
    def resample(image, width, height):
        return np.asarray(
            Image.fromarray(image).resize((width, height), Image.Resampling[name.upper()])
        )

    return resample


def opencv(name):
    def resample(image, width, height):
        kind = getattr(cv2, f"INTER_{name.removeprefix('cv2_').upper()}")
        return cv2.resize(image, (width, height), interpolation=kind)

    return resample


def by_library(images, size, down, up):
    """Degrades image by image, in uint8 after every step."""
    filters = [opencv(name) if name.startswith("cv2_") else pillow(name) for name in (down, up)]
    return np.stack([filters[1](filters[0](image, *size[::-1]), 96, 112) for image in images])


@pytest.mark.parametrize(
    ("down", "up", "size"),
    [
        ("bicubic", "bicubic", 8),
        ("bicubic", "bicubic", 12),
        ("bicubic", "bicubic", 30),
        ("bilinear", "bilinear", 12),
        ("lanczos", "lanczos", 30),
        ("box", "bicubic", 12),
        ("cv2_area", "cv2_cubic", 8),
        ("cv2_area", "cv2_cubic", 30),
        ("cv2_cubic", "cv2_cubic", 12),
        ("cv2_linear", "cv2_linear", 12),
        ("cv2_lanczos4", "cv2_lanczos4", 30),
    ],
)
def test_results_are_those_of_the_libraries(down, up, size):
    ours = Degradation(blur=0.0, down=down, up=up).to(IMAGES, size)
    gap = np.abs(np.asarray(ours) - by_library(PHOTOS, (size, size), down, up))
    assert gap.max() <= 2
    assert (gap > 1).mean() < 3e-3
    assert gap.mean() < 0.3 if down.startswith("cv2_") else gap.mean() < 0.04


def test_the_width_can_keep_the_aspect_ratio():
    ours = Degradation(blur=0.0, keep_aspect=True).to(IMAGES, 8)
    gap = np.abs(np.asarray(ours) - by_library(PHOTOS, (8, 7), "bicubic", "bicubic"))
    assert gap.max() <= 2


@pytest.mark.parametrize("filter", ["bicubic", "cv2_cubic"])
def test_the_default_is_a_gaussian_filter_that_follows_the_ratio_then_a_reduction(filter):
    """KDim, section 2.2; papers/README.md, correction 4."""
    std = 0.5 * 112 / 16
    blurred = np.stack([cv2.GaussianBlur(image, (0, 0), std) for image in PHOTOS])
    theirs = by_library(blurred, (16, 16), filter, filter)
    ours = Degradation(down=filter, up=filter).to(IMAGES, 16)
    gap = np.abs(np.asarray(ours) - theirs)  # theirs rounds the blurred image to gray levels too
    assert gap.max() <= 3
    assert gap.mean() < 0.5


def test_the_blur_alone_is_that_of_opencv():
    ours = Degradation(down="none").to(IMAGES, 16)
    theirs = np.stack([cv2.GaussianBlur(image, (0, 0), 0.5 * 112 / 16) for image in PHOTOS])
    assert np.abs(np.asarray(ours) - theirs).max() <= 1
    mixed = Degradation(down="none", probability=1.0, sizes=(8, 20))(KEYS, IMAGES)
    known = [np.asarray(Degradation(down="none").to(IMAGES, size)) for size in (8, 20)]
    for image, *choices in zip(np.asarray(mixed), *known, strict=True):
        assert any((image == choice).all() for choice in choices)


def test_the_blur_is_that_of_scipy_and_keeps_brightness():
    matrix = gaussian_matrix(40, 3.0)
    np.testing.assert_allclose(matrix.sum(1), 1, rtol=1e-6)
    line = np.random.default_rng(0).random(40)
    np.testing.assert_allclose(
        matrix @ line, gaussian_filter1d(line, 3.0, mode="mirror"), rtol=1e-5
    )
    np.testing.assert_array_equal(gaussian_matrix(5, 0.0), np.eye(5))


def test_images_that_are_not_drawn_stay_exactly_the_same():
    np.testing.assert_array_equal(Degradation(probability=0.0)(KEYS, IMAGES), IMAGES)
    degraded = np.asarray(Degradation(probability=0.5)(KEYS, IMAGES))
    changed = (degraded != PHOTOS).any((1, 2, 3))
    assert 0 < changed.sum() < len(PHOTOS)


def test_each_image_has_one_of_the_sizes():
    every = Degradation(probability=1.0, sizes=(8, 20))
    found = np.asarray(every(KEYS, IMAGES))
    known = {size: np.asarray(every.to(IMAGES, size)) for size in every.sizes}
    sizes = [
        [size for size, images in known.items() if (images[i] == found[i]).all()]
        for i in range(len(found))
    ]
    assert all(len(size) == 1 for size in sizes)
    assert {size[0] for size in sizes} == {8, 20}


def test_probabilities_of_degradation_and_sizes():
    constant = jnp.broadcast_to(jnp.arange(8.0)[None, :, None, None] * 30, (4000, 8, 8, 1))
    keys = example_keys(jax.random.key(1), jnp.arange(4000))
    plan = Degradation(sizes=(1, 2, 4), probability=0.4)

    @functools.partial(jax.jit, compiler_options=FAST)
    def degrade(keys, images):
        return plan(keys, images), {size: plan.to(images[:1], size)[0] for size in plan.sizes}

    found, known = jax.tree.map(np.asarray, degrade(keys, constant))
    counts = {size: (found == image).all((1, 2, 3)).mean() for size, image in known.items()}
    for fraction in counts.values():
        assert abs(fraction - 0.4 / 3) < 0.022  # four standard errors
    assert abs((found == np.asarray(constant)).all((1, 2, 3)).mean() - 0.6) < 0.031


def test_a_fixed_choice_depends_only_on_the_position_in_the_training_set():
    """KDim, section 2.2: 40 percent of the training set are randomly selected."""
    plan = Degradation(sizes=(1, 2, 4), fixed_seed=5)
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (500, 8, 8, 1)), jnp.float32)
    index = jnp.arange(500)

    @functools.partial(jax.jit, compiler_options=FAST)
    def degrade(seed, images, index):
        keys = example_keys(jax.random.key(seed), jnp.arange(len(index)))
        return plan(keys, images, index)

    first = degrade(0, images, index)
    assert abs((first != images).any((1, 2, 3)).mean() - 0.4) < 0.09  # four standard errors
    np.testing.assert_array_equal(degrade(1, images[::-1], index[::-1])[::-1], first)
    other = dataclasses.replace(plan, fixed_seed=6)(None, images, index)
    assert (np.asarray(other) != first).any()
    with pytest.raises(UsageError, match=r"needs the positions .*: add batch\['index'\]"):
        plan(KEYS, images)


def test_an_image_does_not_depend_on_the_rest_of_the_batch_or_on_compiling():
    plan = Degradation(probability=1.0)
    whole = plan(KEYS, IMAGES)
    np.testing.assert_array_equal(plan(KEYS[::-1], IMAGES[::-1])[::-1], whole)
    np.testing.assert_array_equal(jax.jit(plan.__call__)(KEYS, IMAGES), whole)


def test_constant_images_stay_constant():
    flat = jnp.full((1, 112, 96, 3), 77.0)
    for down in ("bicubic", "none"):
        np.testing.assert_array_equal(Degradation(down=down).to(flat, 12), flat)


def test_sizes_need_not_be_smaller_than_the_image():
    small = IMAGES[:, :10, :8]
    assert Degradation(sizes=(16,)).to(small, 16).shape == small.shape


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": ()}, "sizes must be one or more"),
        ({"sizes": (0, 8)}, "sizes must be one or more"),
        ({"probability": 1.5}, "probability must be 0 to 1"),
        ({"blur": -1.0}, "blur must be 0 to 100"),
        ({"blur": 1e9}, "blur must be 0 to 100"),
        ({"blur": float("nan")}, "blur must be 0 to 100"),
        ({"down": "cubic"}, "down = 'cubic' is unknown: choose one of bicubic, cv2_cubic"),
        ({"up": "area"}, "up = 'area' is unknown"),
        ({"up": "none"}, "up = 'none' is unknown"),
        ({"down": "none", "blur": 0.0}, "blur must be greater than 0 with down = 'none'"),
        ({"fixed_seed": -1}, "fixed_seed must be at least 0"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Degradation(**options)
