"""Files of weights: every format, and what is wrong with a file."""

import hashlib
import io
import pickle
import zipfile

import numpy as np
import pytest

from kd_jax.core.errors import UsageError
from kd_jax.pretrained.pytorch.files import PREFIXES, WRAPPERS, read_file


def read(tmp_path, content, name="weights.pth"):
    (tmp_path / name).write_bytes(content)
    return read_file(tmp_path / name)


def check(file, expected):
    assert list(file.tensors) == list(expected)
    for name, array in expected.items():
        found = file.tensors[name]
        assert (found.dtype, found.shape) == (array.dtype, array.shape)
        assert found.tobytes() == array.tobytes()
        assert not found.flags.writeable or file.name.endswith(".npz")


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("wrap", [None, *WRAPPERS])
def test_both_formats_of_torch(tmp_path, write, some, old, wrap):
    content = write.torch_file(some, old=old, wrap=wrap)
    file = read(tmp_path, content)
    check(file, some)
    assert file.name == "weights.pth"
    assert file.sha256 == hashlib.sha256(content).hexdigest()


def test_safetensors(tmp_path, write, some):
    check(read(tmp_path, write.safetensors_file(some)), some)  # whatever its name is


def test_npz(tmp_path, some):
    arrays = {name: array for name, array in some.items() if name != "norm.bias"}
    file = io.BytesIO()
    np.savez(file, **arrays)
    check(read(tmp_path, file.getvalue(), "weights.npz"), arrays)


@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
def test_a_pickle_of_arrays(tmp_path, protocol):
    arrays = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
        "c": np.arange(3, dtype=">f4"),
        "d": np.array(3),
    }
    content = pickle.dumps({**arrays, "accuracy": np.float64(0.5), "epoch": 3}, protocol)
    file = read(tmp_path, content)
    assert list(file.tensors) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(file.tensors[name], array)


@pytest.mark.parametrize("prefix", [*PREFIXES, "module.model.", "_orig_mod.module."])
def test_common_prefixes_are_removed(tmp_path, write, some, prefix):
    check(read(tmp_path, write.torch_file(some, prefix=prefix)), some)


def test_a_prefix_of_some_names_stays(tmp_path, write, some):
    names = {f"module.{name}" if i else name: array for i, (name, array) in enumerate(some.items())}
    assert list(read(tmp_path, write.torch_file(names)).tensors) == list(names)


@pytest.mark.parametrize("old", [False, True])
def test_views_of_one_storage(tmp_path, write, old):
    numbers = np.arange(12, dtype=np.float32)
    stored = write.storage("FloatStorage", "0", 12, *([b"N"] if old else []))
    body = write.dictionary(
        {
            "rows": write.tensor(stored, 0, (3, 4), (4, 1)),
            "columns": write.tensor(stored, 0, (4, 3), (1, 4)),
            "part": write.tensor(stored, 5, (2, 2), (4, 1)),
            "expanded": write.tensor(stored, 2, (2, 3), (0, 1)),
            "scalar": write.tensor(stored, 11, (), ()),
            "empty": write.tensor(stored, 0, (0, 4), (4, 1)),
        }
    )
    contents = {"0": numbers.tobytes()}
    content = write.legacy(body, contents, {"0": 12}) if old else write.zipped(body, contents)
    tensors = read(tmp_path, content).tensors
    rows = numbers.reshape(3, 4)
    np.testing.assert_array_equal(tensors["rows"], rows)
    np.testing.assert_array_equal(tensors["columns"], rows.T)
    np.testing.assert_array_equal(tensors["part"], [[5, 6], [9, 10]])
    np.testing.assert_array_equal(tensors["expanded"], [[2, 3, 4], [2, 3, 4]])
    assert tensors["scalar"] == 11
    assert tensors["empty"].shape == (0, 4)


def test_parts_of_storages_in_old_files(tmp_path, write):
    view = write.row(write.text("1"), write.number(2), write.number(3))
    stored = write.storage("FloatStorage", "0", 6, view)
    body = write.dictionary({"part": write.tensor(stored, 1, (2,), (1,))})
    contents = {"0": np.arange(6, dtype=np.float32).tobytes()}
    file = read(tmp_path, write.legacy(body, contents, {"0": 6}))
    np.testing.assert_array_equal(file.tensors["part"], [3, 4])


def test_parameters_namespaces_and_sizes_are_understood(tmp_path, write):
    stored = write.storage("FloatStorage", "0", 2)
    hooks = write.name("collections", "OrderedDict") + b")R"
    inner = write.tensor(stored, 0, (2,), (1,))
    parameter = write.name("torch._utils", "_rebuild_parameter") + write.row(inner, b"\x88", hooks)
    options = write.name("argparse", "Namespace") + b")\x81" + write.dictionary({"lr": b"N"}) + b"b"
    size = write.name("torch", "Size") + write.row(write.row(write.number(2))) + b"R"
    body = write.dictionary(
        {"opt": options, "size": size, "net": write.dictionary({"w": parameter + b"R"})}
    )
    file = read(tmp_path, write.zipped(body, {"0": np.float32([1, 2]).tobytes()}))
    np.testing.assert_array_equal(file.tensors["w"], [1, 2])


def message(tmp_path, content, name="weights.pth"):
    with pytest.raises(UsageError) as error:
        read(tmp_path, content, name)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value).replace(f"{tmp_path}/", "")


@pytest.mark.parametrize("old", [False, True])
def test_a_damaged_file_is_one_sentence(tmp_path, write, some, old):
    content = write.torch_file(some, old=old)
    rng = np.random.default_rng(0)
    for length in [0, 1, 4, 20, *rng.integers(0, len(content), 30)]:
        assert message(tmp_path, content[:length]).startswith("weights.pth ")
    for place in rng.integers(0, len(content), 200):
        broken = bytearray(content)
        broken[place] ^= 1 << rng.integers(8)
        try:
            read(tmp_path, bytes(broken))
        except UsageError as error:
            assert len(str(error).splitlines()) == 1


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, "do not fit its shape"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, "more bytes than"),
        ({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}}, "do not fit its shape"),
        ({"a": {"dtype": "F33", "shape": [2], "data_offsets": [0, 8]}}, "dtype of 'a' is unknown"),
        (
            {"a": {"dtype": ["F32"], "shape": [2], "data_offsets": [0, 8]}},
            "dtype of 'a' is unknown",
        ),
        ({"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}, "not made of numbers"),
        ({"a": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}}, "not made of numbers"),
        ({"a": {"dtype": "F32", "shape": 2, "data_offsets": [0, 8]}}, "not made of numbers"),
        ({"a": {"dtype": "F32", "shape": [2]}}, "entry 'a' is incomplete"),
        ({"a": 3}, "entry 'a' is incomplete"),
        ({"b": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, "a gap or an overlap"),
    ],
)
def test_safetensors_are_checked(tmp_path, write, changes, says):
    content = write.safetensors_file({"a": np.float32([1, 2])}, **changes)
    assert says in message(tmp_path, content, "weights.safetensors")


def test_a_header_of_safetensors_has_each_name_once(tmp_path, write):
    content = write.safetensors_file({"a": np.float32([1]), "b": np.float32([2])})
    assert "a name twice" in message(tmp_path, content.replace(b'"b"', b'"a"'))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (lambda w: w.number(3), "holds no dictionary of weights"),
        (
            lambda w: w.dictionary({"epoch": w.number(3)}),
            "no dictionary of tensors (its keys are ep",
        ),
        (lambda w: b"}", "no dictionary of tensors (its keys are none)"),
        (lambda w: b"}q\x00(" + w.text("model") + b"h\x00u", "holds no dictionary of weights"),
    ],
)
def test_a_file_without_tensors_is_one_sentence(tmp_path, write, body, says):
    assert says in message(tmp_path, write.zipped(body(write), {}))


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [
        (1, (2,), (1,)),
        (0, (3,), (1,)),
        (0, (2, 2), (2, 1)),
        (-1, (1,), (1,)),
        (0, (2,), (-1,)),
        (0, (-2,), (1,)),
        (0, (2,), (1, 1)),
        (0, (2**31 - 1, 2**31 - 1), (1, 1)),
    ],
)
def test_a_tensor_must_be_inside_its_storage(tmp_path, write, offset, shape, strides):
    stored = write.storage("FloatStorage", "0", 2)
    body = write.dictionary({"a": write.tensor(stored, offset, shape, strides)})
    contents = {"0": np.float32([1, 2]).tobytes()}
    assert "cannot be read as weights" in message(tmp_path, write.zipped(body, contents))


@pytest.mark.parametrize("count", [1, 3, 2**31 - 1, -1])
def test_a_storage_must_have_its_data(tmp_path, write, count):
    stored = write.storage("FloatStorage", "0", count)
    body = write.dictionary({"a": write.tensor(stored, 0, (1,), (1,))})
    contents = {"0": np.float32([1, 2]).tobytes()}
    for content in (write.zipped(body, contents), write.legacy(body, contents, {"0": 2})):
        assert "cannot be read as weights" in message(tmp_path, content)


def test_other_byte_orders_and_programs_are_refused(tmp_path, write):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("m/data.pkl", write.done(b"}"))
        archive.writestr("m/byteorder", "big")
    assert "big-endian" in message(tmp_path, file.getvalue())
    machine = write.dictionary({"little_endian": b"\x89"})
    old = write.legacy(b"}", {}, {}).replace(b"\x88u.", b"\x89u.", 1)
    assert machine in old.replace(write.text("protocol_version") + write.number(1001), b"")
    assert "big-endian" in message(tmp_path, old)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("m/code/program.py", "")
    assert "a program of TorchScript" in message(tmp_path, file.getvalue())


def test_a_compressed_archive_cannot_demand_memory(tmp_path):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/data.pkl", b"}." + bytes(10**6))
    assert "the archive is compressed" in message(tmp_path, file.getvalue())


def test_other_files_are_named(tmp_path):
    assert "neither torch's format, nor safetensors" in message(tmp_path, b"<html>")
    with pytest.raises(UsageError, match=r"nothing\.pth cannot be read \(No such file"):
        read_file(tmp_path / "nothing.pth")
    with pytest.raises(UsageError, match="cannot be read"):
        read_file(tmp_path)
