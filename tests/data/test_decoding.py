"""Image files are decoded as Pillow shows them, or refused."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from kd_jax.core.errors import UsageError
from kd_jax.data.decoding import pixels

IMAGE = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)


def encode(image, kind="PNG", **options):
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(
        file, kind, **options
    )
    return file.getvalue()


@pytest.mark.parametrize("kind", ["BMP", "GIF", "PNG", "PPM", "TIFF", "WEBP"])
def test_formats_without_loss(kind):
    image = np.repeat(IMAGE[..., :1], 3, 2) if kind == "GIF" else IMAGE
    data = encode(image, kind, **({"lossless": True} if kind == "WEBP" else {}))
    np.testing.assert_array_equal(pixels(data, "x"), image)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize(
    ("orientation", "upright"),
    [  # EXIF 2.3, table of the tag Orientation: side of the first row, and of the first column
        (1, lambda x: x),
        (2, lambda x: x[:, ::-1]),  # top, right
        (3, lambda x: x[::-1, ::-1]),  # bottom, right
        (4, lambda x: x[::-1]),  # bottom, left
        (5, lambda x: x.swapaxes(0, 1)),  # left, top
        (6, lambda x: x.swapaxes(0, 1)[:, ::-1]),  # right, top
        (7, lambda x: x.swapaxes(0, 1)[::-1, ::-1]),  # right, bottom
        (8, lambda x: x.swapaxes(0, 1)[::-1]),  # left, bottom
        (9, lambda x: x),
    ],
)
def test_images_are_upright(kind, orientation, upright):
    image = IMAGE.repeat(16, 0).repeat(16, 1)
    exif = Image.Exif()
    exif[0x0112] = orientation
    plain = pixels(encode(image, kind), "x")
    np.testing.assert_array_equal(pixels(encode(image, kind, exif=exif), "x"), upright(plain))


def test_a_damaged_exif_block_is_ignored():
    data = encode(IMAGE, "PNG", exif=b"Exif\0\0MM\0*\0\0\xff\xff garbage")
    np.testing.assert_array_equal(pixels(data, "x"), IMAGE)


def png16(color):
    """A PNG file of 16 bits per channel, which Pillow does not write."""
    import zlib

    channels = {0: 1, 2: 3, 4: 2, 6: 4}[color]
    rows = (b"\0" + bytes(range(2 * 4 * channels))) * 6

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", 4, 6, 16, color, 0, 0, 0)
    parts = chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff16():
    """A TIFF file of 1x1 pixel with three channels of 16 bits, little-endian."""
    tags = [(256, 3, 1, 1), (257, 3, 1, 1), (258, 3, 3, 200), (259, 3, 1, 1), (262, 3, 1, 2)]
    tags += [(273, 4, 1, 220), (277, 3, 1, 3), (278, 3, 1, 1), (279, 4, 1, 6)]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    data = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    return data.ljust(200, b"\0") + struct.pack("<HHH", 16, 16, 16) + bytes(14) + bytes(6)


DEEP = {
    **{f"PNG {color}": png16(color) for color in (0, 2, 4, 6)},
    "TIFF": tiff16(),
    "PPM": b"P6 1 1 65535\n" + bytes(6),
    "plain PPM": b"P3 1 1 1023\n1023 0 5\n",
    "gray": encode(Image.new("I;16", (4, 6))),
    "float": encode(Image.new("F", (4, 6)), "TIFF"),
}


@pytest.mark.parametrize("data", DEEP.values(), ids=DEEP)
def test_more_than_8_bits_are_refused(data):
    assert Image.open(io.BytesIO(data)).size  # Pillow itself can read it
    with pytest.raises(UsageError, match="x has pixels of more than 8 bits"):
        pixels(data, "x")


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP", "TIFF"])
def test_animated_images_are_refused(kind):
    frames = [Image.new("RGB", (4, 6), color) for color in ("red", "blue")]
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:])
    with pytest.raises(UsageError, match="x is animated or has several pages"):
        pixels(data, "x")


def test_pictures_of_cameras_with_a_second_view_are_read():
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    data = encode(frames[0], "MPO", save_all=True, append_images=frames[1:])
    assert pixels(data, "x")[0, 0].argmax() == 0


def test_huge_images_are_refused_before_they_are_decoded():
    data = bytearray(encode(IMAGE, "BMP"))
    for width, height in ((20_000, 20_000), (30_000, 5000)):
        data[18:26] = struct.pack("<ii", width, height)
        with pytest.raises(UsageError, match=r"too large for the memory|pixels: reduce|damaged"):
            pixels(bytes(data), "x")


@pytest.mark.parametrize("data", [b"", b"<html>", encode(IMAGE)[:60], b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_what_is_no_image_is_refused(data):
    with pytest.raises(UsageError, match="x is damaged or no image: restore the file"):
        pixels(data, "x")
