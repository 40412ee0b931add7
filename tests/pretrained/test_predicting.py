"""Classes of images of any size and color."""

import jax
import numpy as np
import pytest
from PIL import Image
from small_trained import small_trained

from kd_jax.core.errors import UsageError
from kd_jax.pretrained.agreement import generated_images
from kd_jax.pretrained.predicting import fit_image

IMAGES = generated_images(10, (8, 8, 1))


@pytest.fixture(scope="module")
def trained():
    return small_trained()


def test_files_arrays_and_pillow_images_have_the_probabilities_of_the_network(trained, tmp_path):
    expected = np.asarray(jax.nn.softmax(jax.jit(trained)(IMAGES).logits))
    path = tmp_path / "image.png"
    Image.fromarray(IMAGES[0, ..., 0]).save(path)
    color = np.repeat(IMAGES[1], 3, axis=-1)
    images = [path, color, Image.fromarray(IMAGES[2, ..., 0]), *IMAGES[3:]]
    found = trained.predict(images, top_k=9)
    assert [len(classes) for classes in found] == [5] * 10
    for row, classes in zip(expected, found, strict=True):
        assert [one.label for one in classes] == np.argsort(-row, kind="stable").tolist()
        probabilities = [one.probability for one in classes]
        np.testing.assert_allclose(probabilities, -np.sort(-row), rtol=1e-4, atol=1e-6)
        assert classes[0].name == trained.info.classes[classes[0].label]
    assert trained.predict([]) == []


@pytest.mark.parametrize(
    ("mode", "name"),
    [("RGBA", "a.png"), ("P", "a.png"), ("L", "a.png"), ("1", "a.bmp"), ("CMYK", "a.jpg"),
     ("LA", "a.webp")],
)  # fmt: skip
def test_every_mode_is_brought_to_the_color_of_the_network(mode, name, tmp_path):
    path = tmp_path / name
    Image.fromarray(IMAGES[0, ..., 0]).resize((23, 9)).convert(mode).save(path)
    gray, color = (fit_image(path, small_trained(channels).info) for channels in (1, 3))
    assert (gray.shape, color.shape) == ((8, 8, 1), (8, 8, 3))
    assert gray.std() > 5  # it is no empty image
    np.testing.assert_allclose(color.mean(-1), gray[..., 0], atol=3)


def test_the_short_side_is_resized_and_the_center_is_cut_out():
    wide = np.zeros((16, 64, 3), np.uint8)
    wide[:, 24:40] = 200  # the center, as wide as high
    np.testing.assert_array_equal(fit_image(wide, small_trained(3).info)[:, 2:-2], 200)
    info = small_trained(3, fit=None).info  # of an older version: the size of the input
    assert fit_image(wide, info).shape == (4, 4, 3)


def test_what_is_no_image_of_8_bits_is_one_sentence(trained, tmp_path):
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "deep.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    cases = {
        "more than 8 bits": tmp_path / "deep.png",
        "damaged or no image": tmp_path / "broken.png",
        "cannot be read": tmp_path / "missing.png",
        "float32 .* must be uint8": np.zeros((4, 4), np.float32),
        r"uint8 \[4, 4, 2\]": np.zeros((4, 4, 2), np.uint8),
        "has the mode 'F'": Image.fromarray(np.zeros((4, 4), np.float32)),
    }
    for says, image in cases.items():
        with pytest.raises(UsageError, match=says):
            trained.predict([image])
    with pytest.raises(UsageError, match="top_k must be 1 or more, not 0"):
        trained.predict([IMAGES[0]], top_k=0)
    with pytest.raises(UsageError, match="sees images of 2 channels"):
        small_trained(2, fit=None).predict([IMAGES[0]])


def test_gray_images_without_a_channel_axis_fit_a_network_of_gray_images(trained):
    whole = jax.jit(trained)
    np.testing.assert_array_equal(whole(IMAGES[..., 0]).logits, whole(IMAGES).logits)
