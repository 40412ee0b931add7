import itertools
import os
import pickle
import struct
import tracemalloc

import numpy as np
import pytest

from kd_jax.core.errors import UsageError
from kd_jax.evaluation.faces.packs import read_pack

FILES = [b"\xff\xd8\xff one", b"\x89PNG two", b"\0\x80\xfe\n three", b"four"]
SAME = [True, False]


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content))
    return str(path)


def python2_text(data):
    """A `str` of Python 2, as pickled by its protocol 2."""
    return b"T" + struct.pack("<i", len(data)) + data


def python2_array(data):
    """A uint8 array of NumPy 1 in Python 2."""
    return (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        + b"(K\x01K"
        + bytes([len(data)])
        + b"\x85cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
        + b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tbI00\n"
        + python2_text(data)
        + b"tb"
    )


def python2_pack(kind):
    same = b"](" + b"".join(b"\x88" if x else b"\x89" for x in SAME) + b"e"
    return b"\x80\x02](" + b"".join(map(kind, FILES)) + b"e" + same + b"\x86."


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_packs_of_python_3(tmp_path, protocol):
    arrays = [np.frombuffer(file, np.uint8) for file in FILES]
    writable = [array.copy() for array in arrays]
    for images in (FILES, arrays, writable):
        for same in (SAME, tuple(SAME), np.array(SAME), list(np.array(SAME))):
            path = write(tmp_path / "lfw.bin", pickle.dumps((images, same), protocol))
            files, truth = read_pack(path)
            assert files == FILES
            assert truth.tolist() == SAME


@pytest.mark.parametrize("kind", [python2_text, python2_array])
def test_packs_of_python_2(tmp_path, kind):
    files, truth = read_pack(write(tmp_path / "lfw.bin", python2_pack(kind)))
    assert files == FILES
    assert truth.tolist() == SAME


class Runs:
    """Runs a command when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("function", [os.system, eval, exec, getattr, np.load, os.mkdir])
def test_no_function_in_a_pack_is_called(tmp_path, function):
    trap = tmp_path / "trap"
    argument = {os.mkdir: str(trap), os.system: f"mkdir {trap}"}.get(
        function, f"__import__('os').mkdir({str(trap)!r})"
    )
    attack = Runs(function, argument)
    values = (attack, (FILES, [attack, True]), ([*FILES[:3], attack], SAME))
    for value, protocol in itertools.product(values, range(pickle.HIGHEST_PROTOCOL + 1)):
        path = write(tmp_path / "lfw.bin", pickle.dumps(value, protocol))
        with pytest.raises(UsageError, match=r"lfw\.bin is no pack of faces \(it calls .*harm\)"):
            read_pack(path)
    assert not trap.exists()


@pytest.mark.parametrize(
    "code",
    [
        b"cos\nsystem\n(S'mkdir trap'\ntR.",
        b"\x80\x04\x8c\x05numpy\x8c\x0fndarray.tofile\x93.",  # an attribute of an allowed name
        b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.",
        b"\x80\x02\x82\x01.",  # a registered extension
        b"cnumpy\ndtype\n(S'O8'\ntR.",
        b"(S'trap'\nios\nmkdir\n.",
    ],
)
def test_no_hand_written_pickle_code_is_executed(tmp_path, monkeypatch, code):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="is no pack of faces"):
        read_pack(write(tmp_path / "lfw.bin", code))
    assert [path.name for path in tmp_path.iterdir()] == ["lfw.bin"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is no pack of faces"),
        (b"<html>", "is no pack of faces"),
        (pickle.dumps((FILES, SAME))[:-20], "is no pack of faces"),
        ((FILES,), "is no pack of faces"),
        ((3, SAME), "is no pack of faces"),
        ((["one", "two"], [True]), r"is no pack of faces \(an image is str\)"),
        (([10**18, 3], [True]), r"is no pack of faces \(an image is int\)"),
        ((FILES, [True]), r"holds 4 images and bool \(1,\): it must be two"),
        ((FILES, [1, 0]), r"holds 4 images and int64 \(2,\): it must be two"),
        (([], []), r"holds 0 images"),
    ],
)
def test_a_file_that_is_no_pack_is_refused(tmp_path, content, says):
    with pytest.raises(UsageError, match=says) as error:
        read_pack(write(tmp_path / "lfw.bin", content))
    assert str(tmp_path / "lfw.bin") in str(error.value)
    with pytest.raises(UsageError, match=r"none\.bin cannot be read \(No such file"):
        read_pack(str(tmp_path / "none.bin"))


@pytest.mark.parametrize(
    "length",
    [
        pickle.BINBYTES8 + struct.pack("<Q", 2**60),
        pickle.BYTEARRAY8 + struct.pack("<Q", 2**60),
        pickle.BYTEARRAY8 + struct.pack("<Q", 2**36),
        pickle.BINUNICODE8 + struct.pack("<Q", 2**60),
        pickle.BINBYTES + struct.pack("<I", 2**32 - 1),
        pickle.FRAME + struct.pack("<Q", 2**60),
        pickle.NONE + pickle.LONG_BINPUT + struct.pack("<I", 2**32 - 1),
        pickle.LONG4 + struct.pack("<i", 2**31 - 1),
        pickle.INT + b"9" * 5000 + b"\n",
    ],
)
def test_a_length_that_the_file_does_not_have_reserves_no_memory(tmp_path, length):
    tracemalloc.start()
    with pytest.raises(UsageError, match="is no pack of faces") as error:
        read_pack(write(tmp_path / "lfw.bin", b"\x80\x05" + length))
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
    assert len(str(error.value).splitlines()) == 1


def test_lists_of_lists_are_not_expanded(tmp_path):
    lists = [True] * 10
    for _ in range(10):
        lists = [lists] * 10  # 10^11 booleans
    with pytest.raises(UsageError, match="the truth of a pair is no boolean"):
        read_pack(write(tmp_path / "lfw.bin", pickle.dumps((FILES, lists))))


def test_a_text_that_a_pack_repeats_is_stored_once(tmp_path):
    text = pickle.BINUNICODE + struct.pack("<I", 10**6) + b"a" * 10**6
    call = b"c_codecs\nencode\n" + b"h\x00h\x01\x86R"  # with the texts 0 and 1 of the memo
    start = b"\x80\x02" + text + b"q\x000" + b"X\x06\0\0\0latin1q\x010"
    pack = start + b"](" + call * 2000 + b"e](" + b"\x88" * 1000 + b"e\x86."
    tracemalloc.start()
    files, _ = read_pack(write(tmp_path / "lfw.bin", pack))
    assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    tracemalloc.stop()
    assert files == [b"a" * 10**6] * 2000


def test_a_pack_cannot_change_functions(tmp_path):
    code = b"\x80\x02cnumpy.core.multiarray\nscalar\n}X\x01\0\0\0aK\x01sb."
    with pytest.raises(UsageError, match="it changes a function"):
        read_pack(write(tmp_path / "lfw.bin", code))


def test_a_pack_that_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "lfw.bin")
    with pytest.raises(UsageError, match=r"lfw\.bin cannot be read \(it is no regular file"):
        read_pack(str(tmp_path / "lfw.bin"))
