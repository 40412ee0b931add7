import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import FAST

from kd_jax.core.errors import UsageError
from kd_jax.data.preprocessing import (
    Augmentation,
    Degradation,
    Normalization,
    View,
    Views,
    check_aspect,
    mixup,
    resize,
    view_size,
)

IMAGES = np.random.default_rng(0).integers(0, 256, (8, 12, 12, 3), dtype=np.uint8)
MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.1)
ROWS = jnp.arange(8)


def views(**options):
    normalization = Normalization(MEAN, STD)
    sizes = {"teacher": (12, 12), "student": (6, 6)}
    return Views({role: View(size, normalization) for role, size in sizes.items()}, **options)


def test_views_are_normalized_per_channel():
    seen = views().evaluation(IMAGES)["teacher"]
    expected = (IMAGES / 255 - np.array(MEAN)) / np.array(STD)
    assert seen.dtype == jnp.float32
    np.testing.assert_allclose(seen, expected, atol=2e-6)


def test_every_role_sees_the_same_augmented_images():
    options = {"augmentation": Augmentation(crop_padding=2, flip=True)}
    seen = views(**options).training(jax.random.key(1), IMAGES, ROWS)
    teacher, student = (
        255 * (np.asarray(seen[role]) * np.float32(STD) + np.float32(MEAN))
        for role in ("teacher", "student")
    )
    np.testing.assert_allclose(student, resize(jnp.round(teacher), (6, 6)), atol=1e-3)
    assert not np.allclose(seen["teacher"], views().evaluation(IMAGES)["teacher"])


def test_evaluation_sees_the_center_of_images_that_are_cropped_in_training():
    cropped = views(augmentation=Augmentation(crop=6))
    seen = jax.jit(cropped.evaluation, compiler_options=FAST)(IMAGES)["student"]
    expected = (IMAGES[:, 3:9, 3:9] / 255 - np.array(MEAN)) / np.array(STD)
    np.testing.assert_allclose(seen, expected, atol=2e-6)
    trained = jax.eval_shape(cropped.training, jax.random.key(1), IMAGES, ROWS)
    assert {role: x.shape for role, x in trained.items()} == {
        "teacher": (8, 12, 12, 3),
        "student": (8, 6, 6, 3),
    }


def test_every_role_can_have_its_own_augmentation():
    options = {"augmentation": Augmentation(crop_padding=2, flip=True), "own_augmentation": True}
    both = Views({role: View((12, 12), Normalization(MEAN, STD)) for role in "ab"}, **options)
    seen = both.training(jax.random.key(1), IMAGES, ROWS)
    assert not np.allclose(seen["a"], seen["b"])
    half = both.training(jax.random.key(1), IMAGES[4:], ROWS[4:])
    np.testing.assert_array_equal(seen["b"][4:], half["b"])
    plain = both.evaluation(IMAGES)
    np.testing.assert_array_equal(plain["a"], plain["b"])


def degraded(**options):
    plain, normalization = (12, 12), Normalization(MEAN, STD)
    blurred = View(plain, normalization, Degradation(sizes=(3, 5), probability=1.0))
    roles = {"teacher": View(plain, normalization), "student": blurred, "other": blurred}
    return Views(roles, **options)


def test_only_roles_with_a_degradation_have_degraded_images_and_only_in_training():
    both = degraded()
    seen = both.training(jax.random.key(1), IMAGES, ROWS)
    np.testing.assert_array_equal(seen["teacher"], both.evaluation(IMAGES)["teacher"])
    assert not np.allclose(seen["student"], seen["teacher"])
    np.testing.assert_array_equal(seen["student"], seen["other"])
    np.testing.assert_array_equal(both.evaluation(IMAGES)["student"], seen["teacher"])


def test_degradation_depends_only_on_step_and_row():
    one = degraded().training(jax.random.key(1), IMAGES, ROWS)["student"]
    half = degraded().training(jax.random.key(1), IMAGES[4:], ROWS[4:])["student"]
    np.testing.assert_array_equal(one[4:], half)
    own = degraded(own_augmentation=True).training(jax.random.key(1), IMAGES, ROWS)
    assert not np.allclose(own["student"], own["other"])


def test_a_fixed_degradation_depends_only_on_the_position_in_the_training_set():
    view = View((12, 12), Normalization(MEAN, STD), Degradation(sizes=(3, 5), fixed_seed=1))
    views = Views({"student": view})
    one = views.training(jax.random.key(1), IMAGES, ROWS, ROWS)["student"]
    other = views.training(jax.random.key(2), IMAGES[::-1], ROWS, ROWS[::-1])["student"]
    np.testing.assert_array_equal(other[::-1], one)
    sharp = views.evaluation(IMAGES)["student"]
    assert 0 < (np.asarray(one) != sharp).any((1, 2, 3)).sum() < 8


def test_each_role_has_its_own_normalization():
    other = Normalization((0.0,) * 3, (1.0,) * 3)
    ours = Normalization(MEAN, STD)
    both = Views({"teacher": View((12, 12), other), "student": View((12, 12), ours)})
    seen = both.evaluation(IMAGES)
    np.testing.assert_allclose(seen["teacher"], IMAGES / 255, atol=1e-6)
    np.testing.assert_array_equal(seen["student"], views().evaluation(IMAGES)["teacher"])


def test_augmentation_depends_only_on_step_and_row():
    augmented = views(augmentation=Augmentation(crop_padding=2, flip=True))
    one = augmented.training(jax.random.key(1), IMAGES, ROWS)["student"]
    half = augmented.training(jax.random.key(1), IMAGES[4:], ROWS[4:])["student"]
    np.testing.assert_array_equal(one[4:], half)
    other = augmented.training(jax.random.key(2), IMAGES, ROWS)["student"]
    assert not np.allclose(one, other)


def test_mixed_images_are_not_rounded():
    images, labels = mixup(jax.random.key(2), IMAGES.astype(np.float32), ROWS, alpha=1.0)
    plain = views().evaluation(IMAGES)["teacher"]
    seen = views().training(jax.random.key(1), images, ROWS)["teacher"]
    expected = labels.weight * plain + (1 - labels.weight) * plain[labels.labels]
    np.testing.assert_allclose(seen, expected, atol=1e-5)


def test_float_images_are_augmented_and_degraded_like_uint8_images():
    both = degraded(augmentation=Augmentation(crop_padding=2, flip=True))
    expected = both.training(jax.random.key(1), IMAGES, ROWS)
    seen = both.training(jax.random.key(1), IMAGES.astype(np.float32), ROWS)
    jax.tree.map(np.testing.assert_array_equal, seen, expected)


def test_a_channel_without_contrast_stays_finite():
    flat = Views({"student": View((4, 4), Normalization((0.5,), (0.0,)))})
    seen = flat.evaluation(np.full((2, 4, 4, 1), 128, np.uint8))["student"]
    assert np.isfinite(seen).all()


@pytest.mark.parametrize(
    ("resolution", "image_size", "expected"),
    [(None, (8, 9), (8, 9)), (4, (8, 8), (4, 4)), (56, (112, 96), (56, 48)), (1, (9, 3), (1, 1))],
)
def test_view_size_keeps_the_aspect_ratio(resolution, image_size, expected):
    assert view_size(resolution, image_size, "key") == expected


def test_images_of_another_aspect_ratio_are_refused():
    check_aspect((56, 48), (112, 96), "choose others")
    with pytest.raises(UsageError, match=r"Images of 112x112 .* 56x48: choose others\."):
        check_aspect((56, 48), (112, 112), "choose others")


@pytest.mark.parametrize("resolution", [0, -4, 33])
def test_impossible_resolutions_name_their_key(resolution):
    with pytest.raises(UsageError, match=rf"x.resolution = {resolution} is impossible"):
        view_size(resolution, (32, 32), "x.resolution")
