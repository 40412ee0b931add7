"""The packs are written here by hand, byte by byte."""

import io
import pickle
import struct
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from kd_jax.data import load_splits
from kd_jax.data.faces import FaceRecords
from kd_jax.data.recordio import ImageRecords
from kd_jax.errors import UsageError

MAGIC = struct.pack("<I", 0xCED7230A)


def png(level, size=(4, 6)):
    file = io.BytesIO()
    Image.new("RGB", size, (level, level, level)).save(file, "PNG")
    return file.getvalue()


def part(content, kind=0):
    head = MAGIC + struct.pack("<I", kind << 29 | len(content))
    return head + content + bytes(-len(content) % 4)


def record(label, image, number=0, layout="IfQQ"):
    """One label stands in the header, several behind it, as MXNet's `pack` has it."""
    labels = [] if np.isscalar(label) else label
    header = struct.pack(layout, len(labels), 0 if labels else label, number, 0)
    content = header + np.array(labels, "<f4").tobytes() + image
    kinds = content.split(MAGIC)
    if len(kinds) == 1:
        return part(content)
    return b"".join(
        part(piece, 1 if i == 0 else 3 if i == len(kinds) - 1 else 2)
        for i, piece in enumerate(kinds)
    )


def write(folder, records, order=None):
    """Writes `train.rec` and `train.idx`, whose lines may stand in another order."""
    lines, data = [], b""
    for number, content in enumerate(records):
        lines.append(f"{number}\t{len(data)}\n")
        data += content
    folder.mkdir(exist_ok=True)
    (folder / "train.rec").write_bytes(data)
    (folder / "train.idx").write_text("".join(lines[i] for i in order or range(len(lines))))
    return str(folder)


LABELS = [7, 7, 2, 7, 2, 30]
IMAGES = [png(10 * i + 1) for i in range(len(LABELS))]


def insightface(layout="IfQQ", several=False):
    """Record 0 says where the images end; behind them each identity has a record of its own."""
    images = [
        record([label, 0.5] if several else label, image, i + 1, layout)
        for i, (label, image) in enumerate(zip(LABELS, IMAGES, strict=True))
    ]
    end = len(images) + 1
    identities = [record([1, 3], b"", end + i, layout) for i in range(3)]
    return [record([end, end + 3], b"", 0, layout), *images, *identities]


def im2rec(layout="IfQQ"):
    return [
        record(label, image, i, layout)
        for i, (label, image) in enumerate(zip(LABELS, IMAGES, strict=True))
    ]


@pytest.mark.parametrize("layout", ["IfQQ", "IdQQ"])
@pytest.mark.parametrize("several", [False, True])
def test_packs_of_insightface(tmp_path, layout, several):
    folder = write(tmp_path, insightface(layout, several), order=[9, 3, 0, 1, 2, 4, 5, 8, 7, 6])
    records = ImageRecords(f"{folder}/train.rec")
    assert records.numbers.tolist() == [1, 2, 3, 4, 5, 6]
    assert records.labels.tolist() == LABELS
    assert [records.image(number) for number in range(1, 7)] == IMAGES


@pytest.mark.parametrize("layout", ["IfQQ", "IdQQ"])
def test_packs_without_a_first_record(tmp_path, layout):
    records = ImageRecords(write(tmp_path, im2rec(layout)) + "/train.rec")
    assert records.numbers.tolist() == [0, 1, 2, 3, 4, 5]
    assert records.labels.tolist() == LABELS
    assert records.image(3) == IMAGES[3]


def test_jpeg_and_labels_that_do_not_fit_into_eight_bits(tmp_path):
    file = io.BytesIO()
    Image.new("RGB", (4, 6)).save(file, "JPEG")
    write(tmp_path, [record(85_741, file.getvalue()), record([2**24, 1, 2], file.getvalue())])
    records = ImageRecords(str(tmp_path / "train.rec"))
    assert records.labels.tolist() == [85_741, 2**24]
    assert records.image(1) == file.getvalue()


@pytest.mark.parametrize("image", [IMAGES[0] + MAGIC + b"abc" + MAGIC + MAGIC, IMAGES[0] + MAGIC])
def test_images_that_hold_the_magic_word_are_joined(tmp_path, image):
    write(tmp_path, [record(1, IMAGES[1]), record(2, image), record(3, IMAGES[2])])
    records = ImageRecords(str(tmp_path / "train.rec"))
    assert [records.image(i) for i in range(3)] == [IMAGES[1], image, IMAGES[2]]
    assert records.labels.tolist() == [1, 2, 3]


def test_threads_and_processes_read_the_same(tmp_path):
    images = [png(i % 256) for i in range(300)]
    write(tmp_path, [record(i, image) for i, image in enumerate(images)])
    records = ImageRecords(str(tmp_path / "train.rec"))
    numbers = np.random.default_rng(0).integers(0, 300, 3000)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(records.image, numbers)) == [images[i] for i in numbers]
    data = pickle.dumps(records)
    assert len(data) < 20_000  # the index, but not the images
    assert pickle.loads(data).image(17) == images[17]


def test_they_are_a_source(tmp_path):
    source = FaceRecords(write(tmp_path, insightface()))
    train, test = load_splits(source, "train", "test")
    # the numbers 2 and 7 become the classes 0 and 1; 30 has one image only
    assert (train.num_classes, train.image_shape) == (2, (6, 4, 3))
    assert train.images[:, 0, 0, 0].tolist() == [1, 21, 11]
    assert train.labels.tolist() == [1, 0, 1]
    assert test.images[:, 0, 0, 0].tolist() == [41, 31]
    assert test.labels.tolist() == [0, 1]


def test_identities_are_chosen_by_their_numbers(tmp_path):
    folder = write(tmp_path, insightface())
    names = tmp_path / "names.txt"
    names.write_text("7\n")
    images = FaceRecords(folder, exclude_ids=str(names), size=(4, 2)).open("train")
    assert (images.num_classes, images.keys.tolist(), images.image_shape) == (1, [3], (4, 2, 3))
    assert FaceRecords(folder, include=str(names)).open("train").keys.tolist() == [1, 2]
    names.write_text("8\n")
    with pytest.raises(UsageError, match="does not hold, first '8'"):
        FaceRecords(folder, include=str(names)).open("train")


def test_an_open_pack_can_be_sent_to_other_processes(tmp_path):
    images = FaceRecords(write(tmp_path, insightface())).open("train")
    images.read(0)
    copy = pickle.loads(pickle.dumps(images))
    np.testing.assert_array_equal(copy.read(1), images.read(1))
    assert copy.fingerprint() == images.fingerprint()


def test_a_damaged_image_is_named(tmp_path):
    write(tmp_path, [record(1, IMAGES[0]), record(1, IMAGES[1][:40]), record(1, b"")])
    with pytest.raises(UsageError, match=r"record 1 of .*train\.rec is damaged or no image"):
        FaceRecords(str(tmp_path), test_images=0, min_images=1).load("train")


def unlink(name):
    return lambda folder: (folder / name).unlink()


def text(name, content):
    return lambda folder: (folder / name).write_text(content)


def cut(number):
    def spoil(folder):
        path = folder / "train.rec"
        path.write_bytes(path.read_bytes()[:number])

    return spoil


def overwrite(place, content):
    def spoil(folder):
        path = folder / "train.rec"
        data = path.read_bytes()
        path.write_bytes(data[:place] + content + data[place + len(content) :])

    return spoil


WHOLE = len(b"".join(insightface()))
SECOND = len(insightface()[0])  # where record 1 begins


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (unlink("train.idx"), r"train\.idx cannot be read \(No such file.*beside the .rec file"),
        (unlink("train.rec"), r"train\.rec cannot be read \(.*set data\.source\.path to the"),
        (text("train.rec", ""), r"train\.rec cannot be read \(.*empty"),
        (text("train.idx", ""), r"train\.idx is empty or names a record twice"),
        (text("train.idx", "0\t0\n0\t0\n"), r"train\.idx is empty or names a record twice"),
        (text("train.idx", "0\t0\n1\n"), r"train\.idx is damaged \("),
        (text("train.idx", "<html>\n"), r"train\.idx is damaged \("),
        (text("train.idx", f"0\t{WHOLE}\n"), f"record 0 of .*, at byte {WHOLE}, lies beyond the"),
        (text("train.idx", "0\t0\n1\t-4\n"), "record 1 of .* lies beyond the"),
        (text("train.idx", "0\t0\n1\t4\n"), "record 1 of .*, at byte 4, has no record's mark"),
        (text("train.idx", f"0\t0\n1\t{SECOND}\n"), r"says that it holds 6 images, but .* to 1:"),
        (cut(WHOLE - 1), "record 9 of .* is cut off by the file's end: restore it and .*train.idx"),
        (cut(WHOLE // 2), "record 5 of .* lies beyond the file's end"),
        (overwrite(SECOND, b"\0"), f"record 1 of .*, at byte {SECOND}, has no record's mark"),
        (overwrite(SECOND + 4, b"\x04\0\0\0"), "record 1 of .* is too short for its header"),
        (overwrite(SECOND + 7, b"\x60"), "record 1 of .* is no beginning of a record"),
        (overwrite(SECOND + 8, b"\xff\xff\xff\xff"), "record 1 of .* is too short for its labels"),
        (overwrite(SECOND + 12, struct.pack("<f", 0.5)), "record 1 of .* no whole number"),
        (overwrite(SECOND + 12, struct.pack("<f", float("nan"))), "record 1 of .* no whole number"),
        (overwrite(8, b"\x07\0\0\0"), "record 0 of .* neither a list of labels nor an image file"),
    ],
)
def test_damage_is_named(tmp_path, spoil, says):
    folder = write(tmp_path, insightface())
    spoil(tmp_path)
    with pytest.raises(UsageError, match=says) as error:
        FaceRecords(folder).open("train")
    assert "\n" not in str(error.value)


def test_a_broken_part_is_named_when_it_is_read(tmp_path):
    split = record(2, IMAGES[0] + MAGIC + b"abcd")
    write(tmp_path, [record(1, IMAGES[1]), split[:-12] + bytes(12), record(3, IMAGES[2])])
    records = ImageRecords(str(tmp_path / "train.rec"))
    with pytest.raises(UsageError, match=r"record 1 of .* is damaged in its part 2"):
        records.image(1)
    write(tmp_path, [record(1, IMAGES[1]), split[:-2]])
    with pytest.raises(UsageError, match=r"record 1 of .* is damaged in its part 2"):
        ImageRecords(str(tmp_path / "train.rec")).image(1)


def test_a_pack_of_lists_alone_holds_no_images(tmp_path):
    write(tmp_path, [record([1, 1], b"")])
    with pytest.raises(UsageError, match=r"train\.rec holds no images"):
        ImageRecords(str(tmp_path / "train.rec"))
