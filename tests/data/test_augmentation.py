import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.data import Augmentation, random_crop, random_flip
from kd_jax.data.augmentation import example_keys

IMAGES = np.random.default_rng(0).integers(1, 256, (64, 6, 6, 2), dtype=np.uint8)
KEYS = example_keys(jax.random.key(0), jnp.arange(64))


def test_crops_are_windows_of_the_padded_image_at_all_places():
    crops = np.asarray(random_crop(KEYS, IMAGES, 1))
    padded = np.pad(IMAGES, ((0, 0), (1, 1), (1, 1), (0, 0)))
    places = set()
    for image, crop in zip(padded, crops, strict=True):
        matches = {
            (y, x)
            for y in range(3)
            for x in range(3)
            if np.array_equal(image[y : y + 6, x : x + 6], crop)
        }
        assert len(matches) == 1  # no pixel of IMAGES is black, so the place is unique
        places |= matches
    assert len(places) == 9  # 64 draws miss one of nine places with probability 0.5 %


def test_flips_mirror_about_half_of_the_images():
    flipped = np.asarray(random_flip(KEYS, IMAGES))
    same = (flipped == IMAGES).all((1, 2, 3))
    mirrored = (flipped == IMAGES[:, :, ::-1]).all((1, 2, 3))
    assert (same | mirrored).all()
    assert 16 <= mirrored.sum() <= 48  # 32 +- 4 deviations


def test_an_image_does_not_depend_on_its_batch_mates():
    augmentation = Augmentation(crop_padding=2, flip=True)
    whole = augmentation(KEYS, IMAGES)
    parts = [augmentation(KEYS[i : i + 16], IMAGES[i : i + 16]) for i in range(0, 64, 16)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))
    assert whole.dtype == jnp.uint8


def test_nothing_asked_changes_nothing():
    np.testing.assert_array_equal(Augmentation()(KEYS, IMAGES), IMAGES)


def test_negative_padding_is_refused():
    with pytest.raises(ValueError, match="crop_padding must be 0 or more"):
        Augmentation(crop_padding=-1)
