import os
import zipfile

import numpy as np
import pytest

from kd_jax.core.errors import UsageError
from kd_jax.data.npz_files import read_npz

VALUES = np.arange(1000, dtype=np.int16).reshape(10, 100)


def read(path, wanted=("a", "b")):
    return read_npz(path, wanted, f"data.source.path {str(path)!r}", "it must be an .npz file")


def write(path, content, compression=zipfile.ZIP_STORED):
    """Writes an archive whose member `a.npy` has any content."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("a.npy", content)


def header(shape, dtype="|u1"):
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}"
    text += " " * (117 - len(text)) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_that_are_wanted(tmp_path, save):
    arrays = {"a": VALUES, "b": np.asfortranarray(VALUES), "c": np.zeros((3, 0)), "d": np.array(7)}
    save(tmp_path / "x.npz", **arrays)
    found, names = read(tmp_path / "x.npz", [*arrays, "e"])
    assert names == list(arrays) == list(found)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
    assert list(read(tmp_path / "x.npz", ["d"])[0]) == ["d"]


def encrypt(path):
    np.savez(path, a=VALUES)
    data = bytearray(path.read_bytes())
    for start in (data.index(b"PK\x03\x04") + 6, data.index(b"PK\x01\x02") + 8):
        data[start] |= 1  # the flag of encryption, in both headers
    path.write_bytes(data)


def cut(path):
    np.savez(path, a=VALUES)
    path.write_bytes(path.read_bytes()[:-30])


def flip(path):
    np.savez_compressed(path, a=VALUES)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 8
    path.write_bytes(data)


def pickled(path):
    np.savez(path, a=np.array([{}], object))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda path: path.write_bytes(b""), "not a zip file"),
        (lambda path: path.write_bytes(header((300 * 2**30,))), "not a zip file"),
        (lambda path: path.mkdir(), "Is a directory"),
        (os.mkfifo, "no regular file"),
        (encrypt, "'a.npy' is encrypted"),
        (cut, "not a zip file"),
        (flip, ""),
        (pickled, "Python objects"),
        (lambda path: write(path, header((300 * 2**30,))), "does not have the size"),
        (lambda path: write(path, header((2**62, 4))), "does not have the size"),
        (lambda path: write(path, header((5,)) + bytes(6)), "does not have the size"),
        (lambda path: write(path, header((-1, -5)) + bytes(5)), ""),
        (lambda path: write(path, b"\x93NUMPY\x09\x00" + bytes(99)), "unknown version"),
        (lambda path: write(path, b""), ""),
        (lambda path: write(path, bytes(10**6), zipfile.ZIP_BZIP2), "the file cannot hold"),
    ],
)
def test_damage_is_one_sentence(tmp_path, damage, says):
    damage(tmp_path / "x.npz")
    with pytest.raises(UsageError, match=rf"x\.npz' cannot be read \(.*{says}.*\): it must") as e:
        read(tmp_path / "x.npz")
    assert len(str(e.value).splitlines()) == 1


def test_a_size_that_the_file_cannot_hold_is_refused_before_it_is_reserved(tmp_path):
    """Both headers of the archive, and that of the array, claim 279 GiB."""
    size, path = 279 * 2**30, tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo("a.npy")
        archive.writestr(info, header((size - 128,)))
        info.file_size = info.compress_size = size  # the directory is written at the end
    with pytest.raises(UsageError, match="claims 299573968896 bytes, which the file cannot hold"):
        read(path)
