"""The packs are written byte by byte, by `small_sets.record`."""

import io
import pickle
import struct
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from small_sets import MAGIC, PACK_IMAGES, PACK_LABELS, insightface, png, record, write_pack

from kd_jax.core.errors import UsageError
from kd_jax.data.recordio import ImageRecords


def read(folder):
    return ImageRecords(f"{folder}/train.rec")


@pytest.mark.parametrize(("layout", "several"), [("IfQQ", False), ("IdQQ", False), ("IfQQ", True)])
def test_packs_of_insightface(tmp_path, layout, several):
    order = [9, 3, 0, 1, 2, 4, 5, 8, 7, 6]
    records = read(write_pack(tmp_path, insightface(layout, several), order))
    assert records.numbers.tolist() == [1, 2, 3, 4, 5, 6]
    assert records.labels.tolist() == PACK_LABELS
    assert [records.image(number) for number in range(1, 7)] == PACK_IMAGES


@pytest.mark.parametrize("layout", ["IfQQ", "IdQQ"])
def test_packs_without_a_first_record(tmp_path, layout):
    pairs = zip(PACK_LABELS, PACK_IMAGES, strict=True)
    contents = [record(label, image, i, layout) for i, (label, image) in enumerate(pairs)]
    records = read(write_pack(tmp_path, contents))
    assert records.numbers.tolist() == [0, 1, 2, 3, 4, 5]
    assert records.labels.tolist() == PACK_LABELS
    assert records.image(3) == PACK_IMAGES[3]


def test_jpeg_and_labels_that_do_not_fit_into_eight_bits(tmp_path):
    file = io.BytesIO()
    Image.new("RGB", (4, 6)).save(file, "JPEG")
    contents = [record(85_741, file.getvalue()), record([2**24, 1, 2], file.getvalue())]
    records = read(write_pack(tmp_path, contents))
    assert records.labels.tolist() == [85_741, 2**24]
    assert records.image(1) == file.getvalue()


@pytest.mark.parametrize("end", [b"abc" + MAGIC + MAGIC, b""])
def test_images_that_contain_the_magic_word_are_joined(tmp_path, end):
    images = [PACK_IMAGES[1], PACK_IMAGES[0] + MAGIC + end, PACK_IMAGES[2]]
    contents = [record(i + 1, image) for i, image in enumerate(images)]
    records = read(write_pack(tmp_path, contents))
    assert [records.image(i) for i in range(3)] == images
    assert records.labels.tolist() == [1, 2, 3]


def test_threads_and_processes_read_the_same(tmp_path):
    images = [png(np.full((6, 4, 3), i % 256, np.uint8)) for i in range(300)]
    records = read(write_pack(tmp_path, [record(i, image) for i, image in enumerate(images)]))
    numbers = np.random.default_rng(0).integers(0, 300, 3000)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(records.image, numbers)) == [images[i] for i in numbers]
    data = pickle.dumps(records)
    assert len(data) < 20_000  # the index, but not the images
    assert pickle.loads(data).image(17) == images[17]


def unlink(name):
    return lambda folder: (folder / name).unlink()


def text(name, content):
    return lambda folder: (folder / name).write_text(content)


def cut(number):
    def damage(folder):
        path = folder / "train.rec"
        path.write_bytes(path.read_bytes()[:number])

    return damage


def overwrite(offset, content):
    def damage(folder):
        path = folder / "train.rec"
        data = path.read_bytes()
        path.write_bytes(data[:offset] + content + data[offset + len(content) :])

    return damage


WHOLE = len(b"".join(insightface()))
SECOND = len(insightface()[0])  # the offset of record 1


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (unlink("train.idx"), r"train\.idx cannot be read \(No such file.*folder of the .rec file"),
        (unlink("train.rec"), r"train\.rec cannot be read \(.*set data\.source\.path to the"),
        (text("train.rec", ""), r"train\.rec cannot be read \(.*empty"),
        (text("train.idx", ""), r"train\.idx is empty or names a record twice"),
        (text("train.idx", "0\t0\n0\t0\n"), r"train\.idx is empty or names a record twice"),
        (text("train.idx", "0\t0\n1\n"), r"train\.idx is damaged \("),
        (text("train.idx", "<html>\n"), r"train\.idx is damaged \("),
        (text("train.idx", "0\t" + "9" * 5000), r"train\.idx is damaged \(.*too long"),
        (text("train.idx", "0\t" + "9" * 20), r"train\.idx is damaged \("),
        (text("train.idx", f"0\t{WHOLE}\n"), f"record 0 of .*, at byte {WHOLE}, is beyond the end"),
        (text("train.idx", "0\t0\n1\t-4\n"), "record 1 of .* is beyond the end of the file"),
        (text("train.idx", "0\t0\n1\t4\n"), "record 1 of .*, at byte 4, does not begin with the"),
        (text("train.idx", f"0\t0\n1\t{SECOND}\n"), r"has a count of 6 images, but .* to 1:"),
        (cut(WHOLE - 1), "record 9 of .* is longer than the rest .*: restore it and .*train.idx"),
        (overwrite(SECOND + 4, b"\x04\0\0\0"), "record 1 of .* is too short for its header"),
        (overwrite(SECOND + 7, b"\x60"), "record 1 of .* is not the first part of a record"),
        (overwrite(SECOND + 8, b"\xff\xff\xff\xff"), "record 1 of .* is too short for its labels"),
        (overwrite(SECOND + 12, struct.pack("<f", 0.5)), "record 1 of .* is not an integer"),
        (overwrite(SECOND + 12, struct.pack("<f", float("nan"))), "record 1 .* is not an integer"),
        (overwrite(SECOND + 12, struct.pack("<f", float("inf"))), "record 1 .* is not an integer"),
        (overwrite(12, struct.pack("<f", -float("inf"))), None),
        (overwrite(8, b"\x07\0\0\0"), "record 0 of .* neither a list of labels nor an image file"),
        (lambda folder: write_pack(folder, [record([1, 1], b"")]), r"train\.rec holds no images"),
    ],
)
def test_damage_is_named(tmp_path, damage, says):
    folder = write_pack(tmp_path, insightface())
    damage(tmp_path)
    if says is None:  # the count of images has no meaning
        assert len(read(folder).numbers) == 6
        return
    with pytest.raises(UsageError, match=says) as error:
        read(folder)
    assert "\n" not in str(error.value)


def test_a_pack_that_is_truncated_while_it_is_read(tmp_path):
    """A mapped file would end the process by SIGBUS."""
    contents = [record(i, png(np.zeros((60, 80, 3), np.uint8)) + bytes(9999)) for i in range(4)]
    records = read(write_pack(tmp_path, contents))
    records.image(2)
    with open(tmp_path / "train.rec", "r+b") as file:
        file.truncate(len(contents[0]) + 100)
    for number, part in ((1, 1), (3, 1)):
        with pytest.raises(UsageError, match=f"record {number} .* is damaged in its part {part}"):
            records.image(number)


def test_a_damaged_part_is_named_when_it_is_read(tmp_path):
    first, last = record(1, PACK_IMAGES[1]), record(3, PACK_IMAGES[2])
    two_parts = record(2, PACK_IMAGES[0] + MAGIC + b"abcd")
    for contents in ([first, two_parts[:-12] + bytes(12), last], [first, two_parts[:-2]]):
        records = read(write_pack(tmp_path, contents))
        with pytest.raises(UsageError, match=r"record 1 of .* is damaged in its part 2"):
            records.image(1)
