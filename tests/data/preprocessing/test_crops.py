import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import FAST
from PIL import Image

from kd_jax.data.preprocessing import random_crop
from kd_jax.data.preprocessing.augmentation import example_keys
from kd_jax.data.preprocessing.crops import (
    center_window,
    random_boxes,
    random_window,
    resize_boxes,
    selects,
    slices,
)

IMAGES = np.random.default_rng(0).integers(1, 256, (64, 6, 6, 2), dtype=np.uint8)
KEYS = example_keys(jax.random.key(0), jnp.arange(64))


@pytest.mark.parametrize("size", [(6, 5), (5, 3), (1, 6), (3, 1)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_the_crops_of_accelerators_are_those_of_the_cpu(size, dtype):
    images = IMAGES.astype(dtype)
    rng = np.random.default_rng(1)
    limits = np.subtract(images.shape[1:3], size)
    offsets = rng.integers(0, limits + 1, (64, 2)).astype(np.int32)
    offsets[0], offsets[1] = 0, limits
    expected = slices(jnp.asarray(images), jnp.asarray(offsets), size=size)
    found = selects(jnp.asarray(images), jnp.asarray(offsets), size=size)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, expected)


def found_offsets(images, crops):
    """The place of every crop in its image, which must have it once."""
    height, width = crops.shape[1:3]
    places = np.ndindex(images.shape[1] - height + 1, images.shape[2] - width + 1)
    offsets = []
    places = list(places)
    for image, crop in zip(images, crops, strict=True):
        matches = [
            (y, x) for y, x in places if np.array_equal(image[y : y + height, x : x + width], crop)
        ]
        assert len(matches) == 1
        offsets += matches
    return offsets


def test_crops_are_windows_of_the_padded_image_at_all_offsets():
    crops = np.asarray(random_crop(KEYS, IMAGES, 1))
    padded = np.pad(IMAGES, ((0, 0), (1, 1), (1, 1), (0, 0)))
    # No pixel of IMAGES is black, so the offsets are unique. 64 draws miss one of nine offsets with
    # probability 0.5 %.
    assert len(set(found_offsets(padded, crops))) == 9


def test_windows_are_at_all_offsets_of_both_axes():
    cut = jax.jit(random_window, static_argnums=2, compiler_options=FAST)
    crops = np.asarray(cut(KEYS, IMAGES, (5, 4)))
    assert crops.shape == (64, 5, 4, 2)
    assert len(set(found_offsets(IMAGES, crops))) == 2 * 3


def test_the_center_is_that_of_torchvision():
    images = np.arange(7 * 10).reshape(1, 7, 10, 1)
    center = center_window(jnp.asarray(images), (4, 5))
    # CenterCrop: int(round((7 - 4) / 2.0)) = 2 and int(round((10 - 5) / 2.0)) = 2, half to even
    np.testing.assert_array_equal(center, images[:, 2:6, 2:7])
    assert center_window(jnp.asarray(images), (9, 4)).shape == (1, 7, 4, 1)  # stays whole


# Top, left, height and width. The whole image, one row, one column, one pixel, and others.
BOXES = np.int32(
    [
        *[(0, 0, 20, 24), (19, 0, 1, 24), (0, 23, 20, 1), (7, 9, 1, 1)],
        *[(3, 5, 12, 9), (0, 4, 17, 13), (8, 0, 12, 24), (5, 6, 6, 8)],
    ]
)


@pytest.mark.parametrize("size", [(7, 5), (20, 24), (45, 33)])
def test_boxes_are_resized_as_by_pillow(size):
    images = np.random.default_rng(1).integers(0, 256, (len(BOXES), 20, 24, 3), dtype=np.uint8)
    resize = jax.jit(resize_boxes, static_argnums=2, compiler_options=FAST)
    resized = np.asarray(resize(images, BOXES, size))
    expected = [
        Image.fromarray(image[y : y + h, x : x + w]).resize(size[::-1], Image.Resampling.BILINEAR)
        for image, (y, x, h, w) in zip(images, BOXES, strict=True)
    ]
    assert resized.dtype == np.uint8
    difference = np.abs(resized.astype(int) - np.stack(expected))
    assert difference.max() <= 1  # another rounding
    assert (difference > 0).mean() < 0.1


def test_inside_of_a_box_pillows_box_argument_gives_the_same():
    image = np.random.default_rng(2).integers(0, 256, (1, 20, 24, 3), dtype=np.uint8)
    y, x, h, w = 3, 5, 12, 16
    resize = jax.jit(resize_boxes, static_argnums=2, compiler_options=FAST)
    resized = np.asarray(resize(image, np.int32([[y, x, h, w]]), (6, 8)))[0]
    box = (x, y, x + w, y + h)
    expected = Image.fromarray(image[0]).resize((8, 6), Image.Resampling.BILINEAR, box=box)
    difference = np.abs(resized.astype(int) - np.asarray(expected))
    assert difference[1:-1, 1:-1].max() <= 1
    assert difference.max() > 1  # pixels outside of the box are in Pillow's borders


def torchvisions_box(rng, height, width, scale, aspects):
    """`RandomResizedCrop.get_params` of torchvision: top, left, height and width."""
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        ratio = np.exp(rng.uniform(*np.log(aspects)))
        h, w = round(np.sqrt(area / ratio)), round(np.sqrt(area * ratio))
        if 0 < w <= width and 0 < h <= height:
            return rng.integers(height - h + 1), rng.integers(width - w + 1), h, w
    h, w = height, width
    if width / height < min(aspects):
        h = round(width / min(aspects))
    elif width / height > max(aspects):
        w = round(height * max(aspects))
    return (height - h) // 2, (width - w) // 2, h, w


RANGES = (0.08, 1.0), (3 / 4, 4 / 3)  # torchvision's defaults
OTHERS = (0.16, 1.0), (0.75, 1.33)  # common in metric learning


@pytest.mark.parametrize(
    ("size", "ranges"),
    [((32, 32), RANGES), ((12, 40), RANGES), ((60, 10), RANGES), ((40, 30), OTHERS)],
)
def test_boxes_have_the_distribution_of_torchvision(size, ranges):
    count, rng = 2000, np.random.default_rng(0)
    draw = jax.jit(random_boxes, static_argnums=(1, 2, 3), compiler_options=FAST)
    boxes = np.asarray(draw(jax.random.split(jax.random.key(1), count), size, *ranges))
    corners, sides = boxes[:, :2], boxes[:, 2:]
    assert (corners >= 0).all()
    assert (sides > 0).all()
    assert (corners + sides <= size).all()
    expected = np.array([torchvisions_box(rng, *size, *ranges) for _ in range(count)])
    error = np.hypot(boxes.std(0), expected.std(0)) / np.sqrt(count)
    assert (np.abs(boxes.mean(0) - expected.mean(0)) <= 4 * error).all()
    np.testing.assert_allclose(boxes.std(0), expected.std(0), rtol=0.15)
