"""Exported files compute what the network computes, without kd_jax where they promise it."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from small_trained import small_trained

from kd_jax import load
from kd_jax.core.errors import UsageError
from kd_jax.pretrained import agreement, cards
from kd_jax.pretrained.exporting import FORMATS, OUTPUTS, in_float32, on_cpu

SIZE = (8, 8)
IMAGES = agreement.generated_images(5, (*SIZE, 1))
ALONE = """
import sys
import numpy as np
from jax import export
program = export.deserialize(open(sys.argv[1], "rb").read())
images = np.load(sys.argv[2])
outputs = program.call(images)
assert program.call(images[:1])["logits"].shape == (1, 5)
assert not any(name.startswith(("kd_jax", "flax")) for name in sys.modules)
np.savez(sys.argv[3], platforms=program.platforms, **outputs)
"""


@pytest.fixture(scope="module")
def trained():
    return small_trained()


@pytest.fixture(scope="module")
def expected(trained):
    """Outputs of the network, with batch norm's statistics and resize."""
    return on_cpu(trained)(IMAGES)


def test_the_program_is_that_of_the_network(trained, expected):
    outputs = jax.jit(trained)(IMAGES)
    np.testing.assert_allclose(expected["logits"], outputs.logits, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(expected["embedding"], outputs.embedding, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(expected["probabilities"].sum(1), 1, rtol=1e-5)


def test_stablehlo_runs_in_a_process_with_jax_only(trained, expected, tmp_path):
    path = tmp_path / "student.stablehlo"
    path.write_bytes(FORMATS["stablehlo"].write(trained, SIZE))
    np.save(tmp_path / "images.npy", IMAGES)
    words = [path, tmp_path / "images.npy", tmp_path / "out.npz"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-P", "-c", ALONE, *map(str, words)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "out.npz") as outputs:
        assert outputs["platforms"].tolist() == ["cpu", "cuda", "tpu"]
        for name in OUTPUTS:
            np.testing.assert_allclose(outputs[name], expected[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("format", "package"), [("onnx", "jax2onnx"), ("tf", "tensorflow")])
def test_other_runtimes_compute_the_same(trained, expected, format, package):
    pytest.importorskip(package)
    run = FORMATS[format].run(FORMATS[format].write(trained, SIZE))
    assert run(IMAGES[:1])["logits"].shape == (1, 5)
    for name, array in run(IMAGES).items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-4, atol=1e-4)


def test_safetensors_load_as_the_same_network(trained, tmp_path):
    path = tmp_path / "student.safetensors"
    path.write_bytes(FORMATS["safetensors"].write(trained, SIZE))
    found = load(path)
    assert found.info == trained.info
    jax.tree.map(np.testing.assert_array_equal, found.variables, trained.variables)
    with pytest.raises(UsageError, match="is a file of one network: omit the role"):
        load(path, role="teacher")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda content: content[:-1], "has more|do not fit|cannot be read"),
        (lambda content: b"no weights", "cannot be read .it has no header.: name a folder"),
        (lambda content: content.replace(b'"kd_jax"', b'"no_jax"'), "has no description of a netw"),
        (lambda content: content.replace(b"classifier/kernel", b"classifier/kernal"), "fit tiny"),
    ],
)
def test_damaged_files_are_one_sentence(trained, tmp_path, change, says):
    path = tmp_path / "student.safetensors"
    path.write_bytes(change(FORMATS["safetensors"].write(trained, SIZE)))
    with pytest.raises(UsageError, match=says):
        load(path)


def test_safetensors_are_those_of_the_original_package(trained):
    package = pytest.importorskip("safetensors.numpy")
    arrays = package.load(FORMATS["safetensors"].write(trained, SIZE))
    kernel = trained.variables["params"]["classifier"]["kernel"]
    np.testing.assert_array_equal(arrays["params/classifier/kernel"], kernel)


def outputs_of(logits):
    """Returns a program whose outputs are all these numbers, for images numbered from 0."""
    return lambda images: dict.fromkeys(OUTPUTS, logits[images[:, 0, 0, 0]])


def test_differences_and_accuracy_are_counted():
    numbers = np.arange(70, dtype=np.uint8)[:, None, None, None]
    ours = np.eye(7, dtype=np.float32)[np.arange(70) % 7]
    theirs = ours.copy()
    theirs[69] = [0, 0.5, 0, 0, 0, 0, 0]
    found = agreement.compare(outputs_of(ours), outputs_of(theirs), numbers, np.arange(70) % 7)
    assert (found.images, found.other_classes, found.accuracy) == (70, 1, 1)
    assert found.network_accuracy == pytest.approx(69 / 70)
    assert found.differences["logits"] == 1
    with pytest.raises(UsageError, match="differs from the network by 1 in probabilities"):
        found.check("rounded")


def test_nan_is_a_difference():
    found = agreement.Agreement(1, dict.fromkeys(OUTPUTS, float("nan")), 1.0, 0)
    with pytest.raises(UsageError, match="differs from the network by nan"):
        found.check("rounded")


def test_a_network_of_bfloat16_becomes_one_of_float32():
    low = small_trained(dtype="bfloat16")
    assert in_float32(low).network.dtype == np.float32
    assert in_float32(in_float32(low)).info.options == {"dtype": "float32"}


def test_the_card_describes_the_file(trained):
    found = agreement.Agreement(2, dict.fromkeys(OUTPUTS, 0.0), 1.0, 0)
    card = cards.card("s.onnx", b"abc", "onnx", trained, SIZE, found, "two images")
    assert json.loads(json.dumps(card)) == card
    assert card["input"]["shape"] == ["N", 8, 8, 1]
    assert card["outputs"] == {
        "logits": ["N", 5], "probabilities": ["N", 5], "embedding": ["N", 16]
    }  # fmt: skip
    assert card["preprocessing"]["resize"] == {"size": [4, 4], "filter": "bicubic"}
    assert card["classes"] == ["zero", "one", "two", "three", "four"]
    assert "onnxruntime.InferenceSession('s.onnx')" in card["load"]
