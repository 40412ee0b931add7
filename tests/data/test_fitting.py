import dataclasses

import numpy as np
import pytest
from PIL import Image, ImageOps
from small_sets import save

from kd_jax.core.errors import UsageError
from kd_jax.data import Fit
from kd_jax.data.sources.face_folder import FaceFolder
from kd_jax.data.sources.folder import Folder

SHAPES = [(40, 61), (61, 40), (30, 30), (7, 23), (13, 5), (20, 20)]


def noise(shape, channels=3):
    return np.random.default_rng(shape[0]).integers(0, 256, (*shape, channels), dtype=np.uint8)


def torchvisions_crop(image, size, filter):
    """Resize(size) and CenterCrop(size): `_compute_resized_output_size` and `center_crop`."""
    width, height = image.size
    short, long = (width, height) if width <= height else (height, width)
    new_long = int(size * long / short)
    new = (size, new_long) if width <= height else (new_long, size)
    resized = image.resize(new, filter)
    top, left = round((resized.height - size) / 2.0), round((resized.width - size) / 2.0)
    return resized.crop((left, top, left + size, top + size))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("filter", ["bicubic", "bilinear"])
def test_every_mode_is_exact(shape, filter):
    image = noise(shape)
    whole, resampling = Image.fromarray(image), Image.Resampling[filter.upper()]
    expected = {
        "crop": torchvisions_crop(whole, 20, resampling),
        "stretch": whole.resize((20, 20), resampling),
        "pad": ImageOps.pad(whole, (20, 20), resampling, color=0),
    }
    for mode, result in expected.items():
        fitted = Fit((20, 20), mode, filter)(image, "image")
        np.testing.assert_array_equal(fitted, result, mode)


@pytest.mark.parametrize("shape", SHAPES)
def test_images_need_not_become_square(shape):
    image = noise(shape)
    cropped = Fit((12, 16))(image, "image")
    assert cropped.shape == (12, 16, 3)
    scale = max(12 / shape[0], 16 / shape[1])  # covers the size on one axis exactly
    new = int(shape[1] * scale + 1e-9), int(shape[0] * scale + 1e-9)
    resized = np.asarray(Image.fromarray(image).resize(new, Image.Resampling.BICUBIC))
    top, left = round((new[1] - 12) / 2), round((new[0] - 16) / 2)
    np.testing.assert_array_equal(cropped, resized[top : top + 12, left : left + 16])
    padded = Fit((12, 16), "pad")(image, "image")
    expected = ImageOps.pad(Image.fromarray(image), (16, 12), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(padded, expected)


def test_colors_are_converted_as_by_pillow():
    color, gray, alpha = noise((6, 4)), noise((6, 4), 1), noise((6, 4), 4)
    converted = Fit(gray=True)(color, "image")
    assert converted.shape == (6, 4, 1)
    np.testing.assert_array_equal(converted[..., 0], Image.fromarray(color).convert("L"))
    np.testing.assert_array_equal(Fit()(gray, "image"), np.repeat(gray, 3, -1))
    np.testing.assert_array_equal(Fit(gray=True)(gray, "image"), gray)
    np.testing.assert_array_equal(Fit()(alpha, "image"), alpha[..., :3])
    assert Fit((3, 3), gray=True)(color, "image").shape == (3, 3, 1)


def test_long_and_narrow_images():
    line = np.zeros((1, 30_000, 3), np.uint8)
    says = r"a\.png has 30000x1 pixels, .*cropped to 96x96: remove it, or set .* 'pad'\.$"
    with pytest.raises(UsageError, match=says):
        Fit((96, 96))(line, "a.png")
    assert Fit((96, 96), "pad")(line, "a.png").shape == (96, 96, 3)
    assert Fit((96, 96), "stretch")(line, "a.png").shape == (96, 96, 3)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"size": (0, 4)}, "size must be a height and a width"),
        ({"size": (4,)}, "size must be a height and a width"),
        ({"size": (2**14, 2**13)}, r"size must be at most 2\*\*26 pixels"),
        ({"mode": "center"}, "mode = 'center' is unknown: choose one of crop, pad, stretch"),
        ({"filter": "cv2_area"}, "filter = 'cv2_area' is unknown: choose one of bicubic"),
    ],
)
def test_impossible_options_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        Fit(**options)


def test_sources_bring_images_of_mixed_sizes_to_one(tmp_path):
    sizes = {"train/cat/0.png": (9, 4), "train/cat/1.png": (4, 9), "train/dog/2.png": (30, 30)}
    for i, (name, size) in enumerate(sizes.items()):
        save(tmp_path / name, 10 * i + 10, size, "L" if i else "RGB")
    source = Folder(str(tmp_path))
    with pytest.raises(UsageError, match=r"to one size, in a config by data\.source\.fit\.size"):
        source.load("train")
    fitted = dataclasses.replace(source, fit=Fit((6, 5), gray=True))
    images, stored = fitted.load("train"), fitted.open("train")
    assert images.image_shape == stored.image_shape == (6, 5, 1)
    levels = {"train/cat/0.png": 10, "train/cat/1.png": 20, "train/dog/2.png": 30}
    assert dict(zip(images.names, images.images[:, 0, 0, 0], strict=True)) == levels
    np.testing.assert_array_equal(stored.take(np.arange(3)), images.images)
    others = (None, Fit((6, 5)), Fit((6, 5), "pad", gray=True))
    prints = {dataclasses.replace(stored, fit=fit).fingerprint() for fit in others}
    assert len({stored.fingerprint(), *prints}) == 4
    cut = {"size": (4, 3), "min_images": 1, "test_images": 0}
    faces = FaceFolder(str(tmp_path / "train"), fit=Fit((6, 5)), **cut).load("train")
    assert faces.image_shape == (4, 3, 3)
