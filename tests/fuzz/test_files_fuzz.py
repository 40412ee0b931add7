"""Damaged files are read as they are, or refused in one line: never a traceback or a hang.

All damage is drawn from fixed seeds.
"""

import io
import pickle

import numpy as np
import pytest
from PIL import Image
from small_sets import insightface, png, write_pack

from kd_jax.core.errors import UsageError
from kd_jax.data.alignment import read_landmarks
from kd_jax.data.decoding import pixels
from kd_jax.data.identities import read_names
from kd_jax.data.sources.face_records import FaceRecords
from kd_jax.data.sources.npz import Npz
from kd_jax.evaluation.faces.pairs import read_bin, read_pairs
from kd_jax.pretrained.recorded import read_recorded

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (6, 6, 4, 3), dtype=np.uint8)
PATTERNS = (b"\0" * 8, b"\xff" * 8, b"9" * 5000, b"-1", b"nan", b"\t", b"\n", b"../", b"\0", b"\r")


def encoded(kind, **options):
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(IMAGES[0]).save(file, kind, exif=exif, **options)
    return file.getvalue()


def saved(save, **arrays):
    file = io.BytesIO()
    save(file, **arrays)
    return file.getvalue()


def flipped(data, rng):
    """Flips one to four bits."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    return bytes(data)


def truncated(data, rng):
    return data[: rng.integers(len(data))]


def overwritten(data, rng):
    """Replaces up to 16 bytes by garbage or by a text that often does harm, at one place."""
    start, length = rng.integers(len(data)), rng.integers(17)
    new = rng.bytes(length) if rng.integers(2) else PATTERNS[rng.integers(len(PATTERNS))]
    return data[:start] + new + data[start + length :]


def shuffled(data, rng):
    """Exchanges two parts of the file."""
    start, middle, end = sorted(rng.integers(0, len(data) + 1, 3))
    return data[:start] + data[middle:end] + data[start:middle] + data[end:]


def garbage(data, rng):
    return data[: rng.integers(9)] + rng.bytes(rng.integers(200))


DAMAGE = (flipped, truncated, overwritten, shuffled, garbage)


def check(path, data, read, number, same=None):
    """Damages a file `number` times and reads it; returns how often it could be read."""
    rng, successes = np.random.default_rng(1), 0
    path.write_bytes(data)
    whole = read()
    for i in range(number):
        path.write_bytes(DAMAGE[i % len(DAMAGE)](data, rng))
        try:
            result = read()
        except UsageError as error:
            lines = str(error).splitlines()
            assert len(lines) == 1, lines
            assert len(lines[0]) < 1000
            continue
        successes += 1
        assert same is None or same(whole, result)
    assert successes < number  # the damage is noticed at all
    return successes


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path, save):
    """The checksums leave only the original arrays, or damage outside of them."""
    path = tmp_path / "x.npz"
    data = saved(save, images=IMAGES, labels=np.arange(6))
    check(
        path,
        data,
        lambda: Npz(str(path)).load("train"),
        60,
        lambda one, two: one.fingerprint() == two.fingerprint(),
    )


def test_recorded_outputs(tmp_path):
    path = tmp_path / "x.npz"
    logits = RNG.normal(size=(20, 3)).astype(np.float32)
    data = saved(np.savez, logits=logits, embeddings=logits.astype(np.float16), names=np.arange(20))

    def same(one, two):
        # An array whose name is damaged is absent.
        kept = [(one.logits, two.logits), (one.embedding, two.embedding), (one.names, two.names)]
        return all(b is None or np.array_equal(a, b) for a, b in kept)

    check(path, data, lambda: read_recorded(str(path), "path"), 60, same)


@pytest.mark.parametrize("kind", ["BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP"])
def test_images(tmp_path, kind):
    path = tmp_path / "x.png"

    def read():
        image = pixels(path.read_bytes(), "x")
        assert image.dtype == np.uint8
        assert image.shape[2:] == (3,)

    options = {} if kind in ("BMP", "GIF", "PPM") else {"quality": 90} if kind == "JPEG" else {}
    check(path, encoded(kind, **options), read, 60)


@pytest.mark.parametrize("name", ["train.rec", "train.idx"])
def test_packs_of_records(tmp_path, name):
    write_pack(tmp_path, insightface())
    data = (tmp_path / name).read_bytes()
    check(
        tmp_path / name,
        data,
        lambda: FaceRecords(str(tmp_path), min_images=1, test_images=0).open("train").in_memory(),
        60,
    )


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_packs_of_pairs(tmp_path, protocol):
    path = tmp_path / "lfw.bin"
    files = [np.frombuffer(png(image), np.uint8) for image in IMAGES]
    files = [files[0], *(file.tobytes() for file in files[1:])]
    data = pickle.dumps((files, [True, False, np.bool_(True)]), protocol)
    check(path, data, lambda: read_bin(str(path)), 60)


def test_lists(tmp_path):
    path, folder = tmp_path / "list.txt", tmp_path / "Ann"
    folder.mkdir()
    for i, image in enumerate(IMAGES):
        (folder / f"Ann_{i:04d}.png").write_bytes(png(image))
    pairs = b"2\t1\nAnn\t1\t2\nAnn\t1\tAnn\t3\nAnn\t4\t2\nAnn\t5\tAnn\t3\n"
    check(path, pairs, lambda: read_pairs(str(path), str(tmp_path)), 60)
    names = b"2\nAnn\t3\nLi\t4\n"
    check(path, names, lambda: read_names(str(path)), 60)
    landmarks = b"a/b.png,1,2,3,4,5,6,7,8,9,10\nc.png,1,2,3,4,5,6,7,8,9,1e1\n"
    check(path, landmarks, lambda: read_landmarks(str(path)), 60)
