import io
import os
import pickle
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from kd_jax.core.errors import UsageError
from kd_jax.evaluation.faces import read_bin, read_pairs

PEOPLE = ["Ann_Lee", "Jean-Luc", "Bo O'Hara", "Li_3"]


def save(path, level, size=(6, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (level,) * 3).save(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Image i of person k has the gray level 10 k + i; those of the last person are JPEG files."""
    root = tmp_path_factory.mktemp("faces")
    for k, name in enumerate(PEOPLE):
        for i in range(1, 4):
            save(root / name / f"{name}_{i:04}.{'jpg' if k == 3 else 'png'}", 10 * k + i)
    return str(root)


def lines(number):
    """`number` pairs of one person, then of two."""
    same = [f"{PEOPLE[i % 4]}\t{1 + i % 3}\t{1 + (i + 1) % 3}" for i in range(number)]
    other = [f"{PEOPLE[i % 4]}\t1\t{PEOPLE[(i + 1) % 4]}\t{1 + i % 3}" for i in range(number)]
    return same, other


def write(path, header, rows):
    path.write_text("\n".join([header, *rows]) + "\n")
    return str(path)


def levels(pairs):
    return pairs.images[pairs.first, 0, 0, 0], pairs.images[pairs.second, 0, 0, 0]


def test_pairs_in_folds(folder, tmp_path):
    same, other = lines(6)
    rows = [*same[:3], *other[:3], *same[3:], *other[3:]]
    pairs = read_pairs(write(tmp_path / "pairs.txt", "2\t3", rows), folder)
    assert pairs.name == "pairs"
    assert pairs.same.tolist() == [True] * 3 + [False] * 3 + [True] * 3 + [False] * 3
    assert pairs.fold.tolist() == [0] * 6 + [1] * 6
    first, second = levels(pairs)
    # Ann_Lee 1 2, Jean-Luc 2 3, Bo O'Hara 3 1; Ann_Lee 1 Jean-Luc 1, Jean-Luc 1 Bo O'Hara 2, ...
    assert first[:6].tolist() == [1, 12, 23, 1, 11, 21]
    assert second[:6].tolist() == [2, 13, 21, 11, 22, 33]
    assert pairs.images.shape[1:] == (4, 6, 3)
    assert len(np.unique(pairs.images[:, 0, 0, 0])) == len(pairs.images)


def test_pairs_without_folds_get_ten_folds(folder, tmp_path):
    same, other = lines(20)
    path = write(tmp_path / "pairsDevTest.txt", "20", same + other)
    pairs = read_pairs(path, folder, size=(4, 4))
    assert pairs.images.shape[1:] == (4, 4, 3)
    assert pairs.fold.tolist() == [i // 2 for i in range(20)] * 2
    assert pairs.same.tolist() == [True] * 20 + [False] * 20


def test_missing_images_are_counted(folder, tmp_path):
    rows = ["Ann_Lee\t1\t7", "Nobody\t1\tAnn_Lee\t1", "Ann_Lee\t1\t2", "Nobody\t1\tLi_3\t7"]
    says = r"3 of the 5 images that .*pairs.txt names are missing, first .*Ann_Lee_0007\.jpg: add"
    with pytest.raises(UsageError, match=says):
        read_pairs(write(tmp_path / "pairs.txt", "2\t1", rows), folder)


def test_names_that_are_no_files(folder, tmp_path):
    (tmp_path / "Ann" / "Ann_0001.jpg").mkdir(parents=True)
    rows = ["Ann\t1\t2", f"Ann\t1\t{'L' * 300}\t1"]
    with pytest.raises(UsageError, match=r"3 of the 3 images .* are missing"):
        read_pairs(write(tmp_path / "pairs.txt", "1\t1", rows), str(tmp_path))
    for path in ("a\0b", "~no_such_user/x"):
        with pytest.raises(UsageError, match=r"has a NUL character|are missing"):
            read_pairs(str(tmp_path / "pairs.txt"), path)


SAME, OTHER = lines(2)


@pytest.mark.parametrize(
    ("header", "rows", "says"),
    [
        ("", [], "does not begin with a line of the numbers of folds and of pairs"),
        ("10\t300\t5", [], "does not begin with"),
        ("0\t300", [], "does not begin with"),
        ("Ann_Lee\t1\t2", [], "does not begin with"),
        ("ten", [], "does not begin with"),
        ("2", [*SAME, OTHER[0]], "holds 3 pairs, 2 of one person, .* 1 times 2 of one person and"),
        ("2", [*SAME, *OTHER, OTHER[0]], "holds 5 pairs, 2 of one person"),
        ("2\t1", [*SAME, *OTHER], "holds 4 pairs, 2 of one person, .* 2 times 1 of one person"),
        ("1\t2", [*SAME, SAME[0], OTHER[0]], "holds 4 pairs, 3 of one person"),
        ("9" * 5000, [], "does not begin with"),
        ("1", [SAME[0], f"Ann_Lee\t1\tLi_3\t{'9' * 5000}"], "has the line 'Ann_Lee 1 Li_3 999"),
        ("1", [SAME[0], "..\t1\tLi_3\t2"], r"has the name '\.\.', which is not the name of a"),
        ("1", [SAME[0], "/etc/x\t1\tLi_3\t2"], "has the name '/etc/x'"),
        ("1", [SAME[0], "../../x\t1\tLi_3\t2"], r"has the name '\.\./\.\./x'"),
        ("1", [SAME[0], "a\0b\t1\tLi_3\t2"], "has the name"),
        ("1", [SAME[0], "Ann_Lee 1 Li_3 2"], "has the line 'Ann_Lee 1 Li_3 2', but NAME, NUMBER"),
        ("1", [SAME[0], "Ann_Lee\tone\tLi_3\t2"], "has the line 'Ann_Lee one Li_3 2', but NAME"),
        ("1", [SAME[0], "Ann_Lee\t1\tLi_3\t2\t5"], "has the line 'Ann_Lee 1 Li_3 2 5', but NAME"),
    ],
)
def test_a_list_that_contradicts_its_first_line_is_refused(folder, tmp_path, header, rows, says):
    path = write(tmp_path / "pairs.txt", header, rows)
    with pytest.raises(UsageError, match=says) as error:
        read_pairs(path, folder)
    assert str(error.value).startswith(path)
    with pytest.raises(UsageError, match=r"none\.txt cannot be read"):
        read_pairs(str(tmp_path / "none.txt"), folder)


def encoded(level, size=(6, 4)):
    file = io.BytesIO()
    Image.new("RGB", size, (level,) * 3).save(file, "PNG")
    return file.getvalue()


def test_packs_hold_each_image_once(tmp_path):
    numbers = np.random.default_rng(0).integers(0, 9, 40)
    same = np.arange(20) % 2 == 0
    path = tmp_path / "cfp_fp.bin"
    path.write_bytes(pickle.dumps(([encoded(i) for i in numbers], same.tolist())))
    pairs = read_bin(str(path), size=(2, 4))
    assert pairs.images.shape == (len(np.unique(numbers)), 2, 4, 3)
    first, second = levels(pairs)
    np.testing.assert_array_equal(first, numbers[0::2])
    np.testing.assert_array_equal(second, numbers[1::2])
    np.testing.assert_array_equal(pairs.same, same)
    assert pairs.fold.tolist() == [i // 2 for i in range(20)]
    assert pairs.name == "cfp_fp"


def test_an_image_that_a_pack_repeats_is_decoded_once(tmp_path):
    image = np.frombuffer(encoded(7) + bytes(10**6), np.uint8)
    path = tmp_path / "lfw.bin"
    path.write_bytes(pickle.dumps(([image] * 4000, [True] * 2000)))
    tracemalloc.start()
    pairs = read_bin(str(path))
    assert tracemalloc.get_traced_memory()[1] < 20 * 2**20  # 4 GB, if each were a copy
    tracemalloc.stop()
    assert len(pairs.images) == 1
    assert not pairs.first.any()


def test_a_damaged_image_in_a_pack_is_named(tmp_path):
    path = tmp_path / "lfw.bin"
    path.write_bytes(pickle.dumps(([encoded(1), encoded(2)[:30]], [True])))
    with pytest.raises(UsageError, match=r"image 1 of .*lfw\.bin is damaged or no image"):
        read_bin(str(path))
    path.write_bytes(pickle.dumps(([encoded(1), encoded(2, (4, 4))], [True])))
    with pytest.raises(UsageError, match=r"image . of .*lfw\.bin has height and width"):
        read_bin(str(path))


def test_a_pack_that_calls_a_command_is_refused(tmp_path):
    class Runs:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'trap'}",)

    path = tmp_path / "lfw.bin"
    path.write_bytes(pickle.dumps(([encoded(1), Runs()], [True])))
    with pytest.raises(UsageError, match=r"it calls posix\.system, which could do harm"):
        read_bin(str(path))
    assert [file.name for file in tmp_path.iterdir()] == ["lfw.bin"]
