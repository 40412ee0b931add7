"""Files that call code: nothing is executed, and one sentence names the call."""

import os
import pathlib
import pickle
import subprocess

import numpy as np
import pytest

from kd_jax.core.errors import UsageError
from kd_jax.pretrained.pytorch import unpickling
from kd_jax.pretrained.pytorch.files import read_file


class Call:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def refused(tmp_path, content):
    path = tmp_path / "attack.pth"
    path.write_bytes(content)
    with pytest.raises(UsageError) as error:
        read_file(path)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


CALLS = [
    (os.system, "touch {}"),
    (eval, "open({!r}, 'w')"),
    (exec, "open({!r}, 'w')"),
    (open, "{}", "w"),
    (pathlib.Path, "{}"),
    (subprocess.Popen, ["touch", "{}"]),
    (getattr, "", "join"),
    (np.load, "{}"),
    (bytearray, 10**15),
]


@pytest.mark.parametrize("protocol", [1, 2, 4])
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call[0].__name__)
def test_no_function_is_called(tmp_path, write, call, protocol):
    trace = tmp_path / "trace"
    function, *arguments = call
    arguments = [a.format(str(trace)) if isinstance(a, str) else a for a in arguments]
    content = pickle.dumps({"w": Call(function, *arguments)}, protocol)
    body = content.removesuffix(b".").removeprefix(b"\x80" + bytes([protocol]))
    for file in (content, write.zipped(body, {}), write.legacy(body, {}, {})):
        assert "holds more than tensors (it calls " in refused(tmp_path, file)
    assert not trace.exists()


def word(module, name):
    return f"c{module}\n{name}\n".encode()


@pytest.mark.parametrize(
    "body",
    [
        word("os", "system") + b"(X\x04\x00\x00\x00truetR",
        b"(" + b"X\x04\x00\x00\x00true" + b"ios\nsystem\n",
        b"(" + word("os", "system") + b"X\x04\x00\x00\x00trueo",
        b"X\x02\x00\x00\x00osX\x06\x00\x00\x00system\x93",
        word("builtins", "__import__"),
        word("kd_jax.pretrained.pytorch.unpickling", "pickle"),
        word("torch", "load"),
        word("torch.storage", "_load_from_bytes"),
        word("torch.nn.modules.linear", "Linear") + b")\x81}b",
        word("torch._utils", "_rebuild_device_tensor_from_numpy"),
        word("collections", "namedtuple"),
        word("numpy", "frombuffer"),
        word("numpy.core.multiarray", "fromstring"),
        word("__torch__.torch.nn", "Linear"),
    ],
)
def test_every_other_name_is_refused(tmp_path, write, body):
    assert "which is never executed" in refused(tmp_path, write.zipped(body, {}))


@pytest.mark.parametrize(
    "body",
    [
        word("collections", "OrderedDict") + b"}X\x01\x00\x00\x00aX\x01\x00\x00\x00bsb",
        word("torch._utils", "_rebuild_tensor_v2") + b"N}X\x05\x00\x00\x00_function}s\x86b",
        word("torch", "FloatStorage") + b"N}X\x05\x00\x00\x00dtypeNs\x86b",
        word("torch", "FloatStorage") + b")R",
        word("torch", "FloatStorage") + b")\x81",
        word("torch._utils", "_rebuild_tensor_v2") + b")\x81",
        word("argparse", "Namespace") + b"N}X\x01\x00\x00\x00aNs\x86b",
        word("numpy", "ndarray") + b"N}X\x01\x00\x00\x00aNs\x86b",
        word("numpy", "dtype") + b"X\x01\x00\x00\x00O\x85R",
        word("numpy", "dtype") + b"N}X\x01\x00\x00\x00aNs\x86b",
        b"NQ",
        b"X\x01\x00\x00\x00aQ",
        b"(X\x07\x00\x00\x00storageNNNNtQ",
        b"\x82\x01",  # an extension of copyreg
        b"r\xff\xff\xff\xff",  # a place in the memo that needs 32 GiB
    ],
)
def test_replacements_cannot_be_changed_or_misused(tmp_path, write, body):
    before = {name: vars(type(item)).copy() for name, item in unpickling._REPLACEMENTS.items()}
    refused(tmp_path, write.zipped(body, {}))
    after = {name: vars(type(item)).copy() for name, item in unpickling._REPLACEMENTS.items()}
    assert before == after
    assert unpickling._REPLACEMENTS["torch.FloatStorage"].dtype == np.float32


@pytest.mark.parametrize("attribute", ["content", "count", "dtype", "shape"])
def test_storages_and_tensors_cannot_be_changed(tmp_path, write, attribute):
    stored = write.storage("FloatStorage", "0", 1)
    state = b"N" + write.dictionary({attribute: b"N"}) + b"\x86b"
    content = {"0": np.float32([2]).tobytes()}
    for body in (stored + state, write.tensor(stored, 0, (1,), (1,)) + state):
        file = write.zipped(write.dictionary({"w": body}), content)
        assert "it changes a function or a tensor" in refused(tmp_path, file)


def test_attributes_of_a_dictionary_are_dropped(tmp_path, write):
    numbers = write.tensor(write.storage("FloatStorage", "0", 1), 0, (1,), (1,))
    body = write.name("collections", "OrderedDict") + b")R(" + write.text("w") + numbers + b"u"
    state = b"N" + write.dictionary({"items": b"N", "keys": b"N", "get": b"N"}) + b"\x86b"
    path = tmp_path / "weights.pth"
    path.write_bytes(write.zipped(body + state, {"0": np.float32([2]).tobytes()}))
    np.testing.assert_array_equal(read_file(path).tensors["w"], [2])


def test_an_archive_of_objects_is_refused(tmp_path):
    path = tmp_path / "objects.npz"
    np.savez(path, w=np.array([Call(os.system, f"touch {tmp_path / 'trace'}")], object))
    with pytest.raises(UsageError, match="cannot be read as weights"):
        read_file(path)
    assert not (tmp_path / "trace").exists()
