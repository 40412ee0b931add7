import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.data import (
    Augmentation,
    Degradation,
    Normalisation,
    View,
    Views,
    resize,
    view_size,
)
from kd_jax.errors import UsageError

IMAGES = np.random.default_rng(0).integers(0, 256, (8, 12, 12, 3), dtype=np.uint8)
MEAN, DEVIATION = (0.5, 0.4, 0.3), (0.25, 0.2, 0.1)
ROWS = jnp.arange(8)


def views(**options):
    normalisation = Normalisation(MEAN, DEVIATION)
    sizes = {"teacher": (12, 12), "student": (6, 6)}
    return Views({role: View(size, normalisation) for role, size in sizes.items()}, **options)


def test_views_are_normalised_per_channel():
    seen = views().evaluation(IMAGES)["teacher"]
    expected = (IMAGES / 255 - np.array(MEAN)) / np.array(DEVIATION)
    assert seen.dtype == jnp.float32
    np.testing.assert_allclose(seen, expected, atol=2e-6)


def test_every_role_sees_the_same_augmented_images():
    options = {"augmentation": Augmentation(crop_padding=2, flip=True)}
    seen = views(**options).training(jax.random.key(1), IMAGES, ROWS)
    teacher, student = (
        255 * (np.asarray(seen[role]) * np.float32(DEVIATION) + np.float32(MEAN))
        for role in ("teacher", "student")
    )
    np.testing.assert_allclose(student, resize(jnp.round(teacher), (6, 6)), atol=1e-3)
    assert not np.allclose(seen["teacher"], views().evaluation(IMAGES)["teacher"])


def test_every_role_may_see_an_augmented_copy_of_its_own():
    options = {"augmentation": Augmentation(crop_padding=2, flip=True), "own_augmentation": True}
    both = Views({role: View((12, 12), Normalisation(MEAN, DEVIATION)) for role in "ab"}, **options)
    seen = both.training(jax.random.key(1), IMAGES, ROWS)
    assert not np.allclose(seen["a"], seen["b"])
    half = both.training(jax.random.key(1), IMAGES[4:], ROWS[4:])
    np.testing.assert_array_equal(seen["b"][4:], half["b"])
    plain = both.evaluation(IMAGES)
    np.testing.assert_array_equal(plain["a"], plain["b"])


def degraded(**options):
    plain, normalisation = (12, 12), Normalisation(MEAN, DEVIATION)
    blurred = View(plain, normalisation, Degradation(sizes=(3, 5), share=1.0))
    roles = {"teacher": View(plain, normalisation), "student": blurred, "other": blurred}
    return Views(roles, **options)


def test_only_the_roles_that_ask_for_it_see_degraded_images_and_only_in_training():
    both = degraded()
    seen = both.training(jax.random.key(1), IMAGES, ROWS)
    np.testing.assert_array_equal(seen["teacher"], both.evaluation(IMAGES)["teacher"])
    assert not np.allclose(seen["student"], seen["teacher"])
    np.testing.assert_array_equal(seen["student"], seen["other"])  # KD's two networks see the same
    np.testing.assert_array_equal(both.evaluation(IMAGES)["student"], seen["teacher"])


def test_degradation_depends_on_step_and_row_only():
    one = degraded().training(jax.random.key(1), IMAGES, ROWS)["student"]
    half = degraded().training(jax.random.key(1), IMAGES[4:], ROWS[4:])["student"]
    np.testing.assert_array_equal(one[4:], half)
    own = degraded(own_augmentation=True).training(jax.random.key(1), IMAGES, ROWS)
    assert not np.allclose(own["student"], own["other"])


def test_each_network_keeps_the_normalisation_it_knows():
    other = Normalisation((0.0,) * 3, (1.0,) * 3)
    ours = Normalisation(MEAN, DEVIATION)
    both = Views({"teacher": View((12, 12), other), "student": View((12, 12), ours)})
    seen = both.evaluation(IMAGES)
    np.testing.assert_allclose(seen["teacher"], IMAGES / 255, atol=1e-6)
    np.testing.assert_array_equal(seen["student"], views().evaluation(IMAGES)["teacher"])


def test_augmentation_depends_on_step_and_row_only():
    augmented = views(augmentation=Augmentation(crop_padding=2, flip=True))
    one = augmented.training(jax.random.key(1), IMAGES, ROWS)["student"]
    half = augmented.training(jax.random.key(1), IMAGES[4:], ROWS[4:])["student"]
    np.testing.assert_array_equal(one[4:], half)
    other = augmented.training(jax.random.key(2), IMAGES, ROWS)["student"]
    assert not np.allclose(one, other)


def test_a_channel_without_contrast_stays_finite():
    flat = Views({"student": View((4, 4), Normalisation((0.5,), (0.0,)))})
    seen = flat.evaluation(np.full((2, 4, 4, 1), 128, np.uint8))["student"]
    assert np.isfinite(seen).all()


@pytest.mark.parametrize(
    ("resolution", "image_size", "expected"),
    [(None, (8, 9), (8, 9)), (4, (8, 8), (4, 4)), (56, (112, 96), (56, 48)), (1, (9, 3), (1, 1))],
)
def test_view_size_keeps_the_aspect_ratio(resolution, image_size, expected):
    assert view_size(resolution, image_size, "key") == expected


@pytest.mark.parametrize("resolution", [0, -4, 33])
def test_impossible_resolutions_name_their_key(resolution):
    with pytest.raises(UsageError, match=rf"x.resolution = {resolution} is impossible"):
        view_size(resolution, (32, 32), "x.resolution")
