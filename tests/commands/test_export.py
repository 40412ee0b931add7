"""The command that exports networks."""

import json

import numpy as np
import pytest
from PIL import Image
from small_trained import small_trained

import kd_jax
from kd_jax.commands.export import main
from kd_jax.pretrained import agreement
from kd_jax.pretrained.exporting import FORMATS


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """Option that names a network in one file."""
    path = tmp_path_factory.mktemp("export") / "student.safetensors"
    path.write_bytes(FORMATS["safetensors"].write(small_trained(), (8, 8)))
    return f"--network={path}"


def labeled(folder):
    """Writes images with labels, and returns the options that name them."""
    images = agreement.generated_images(6, (8, 8, 1))
    np.savez(folder / "set.npz", images=images, labels=np.arange(6) % 5)
    return ["--source=npz", f"--source.path={folder / 'set.npz'}", "--split=train"]


def test_a_file_is_checked_and_described(network, tmp_path, capsys):
    out = tmp_path / "new" / "student.stablehlo"
    options = [network, "--format=stablehlo", f"--out={out}"]
    assert main([*options, *labeled(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "uint8 images [N, 8, 8, 1]" in printed
    assert "npz (train): the same class on 6 of 6 images" in printed
    card = json.loads((tmp_path / "new" / "student.stablehlo.json").read_text())
    assert card["check"]["accuracy"] == card["check"]["accuracy_of_the_network"]
    assert card["classes"] == ["zero", "one", "two", "three", "four"]
    assert card["load"] in printed.replace(str(out), out.name)
    scope = {"images": agreement.generated_images(2, (8, 8, 1))}
    exec(printed.partition("\nload   ")[2].strip(), scope)  # the line does what it says
    assert scope["probabilities"].shape == (2, 5)


def test_image_files_are_fitted_and_weights_are_read_again(network, tmp_path, capsys):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 20, 30, 3), dtype=np.uint8)
    for name, image in zip("ab", pixels, strict=True):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    names = tmp_path / "names.txt"
    names.write_text("\n".join("vwxyz"))
    out = tmp_path / "student.safetensors"
    options = [f"--check={tmp_path}", f"--classes={names}", f"--out={out}"]
    assert main([network, "--format=safetensors", *options]) == 0
    assert "the same class on 2 of 2 images, greatest difference" in capsys.readouterr().out
    assert kd_jax.load(out).info.classes == tuple("vwxyz")


def test_the_card_has_the_results_of_the_stage(trained, tmp_path):
    stage = trained[0] / "student"
    out = tmp_path / "student.safetensors"
    assert main([f"--network={stage}", "--format=safetensors", f"--out={out}"]) == 0
    card = json.loads((tmp_path / "student.safetensors.json").read_text())
    stored = json.loads((stage / "stage.json").read_text())["last"]
    assert card["network"]["results"].items() <= stored.items()
    assert card["network"]["folder"] == str(stage)
    assert card["check"]["of"] == "generated images"


def test_a_file_that_differs_is_not_written(network, tmp_path, one_sentence, monkeypatch):
    wrong = FORMATS["safetensors"]._replace(run=lambda content: lambda images: {
        name: np.zeros((len(images), 5), np.float32) for name in ("logits", "probabilities")
    } | {"embedding": np.zeros((len(images), 16), np.float32)})  # fmt: skip
    monkeypatch.setitem(FORMATS, "safetensors", wrong)
    out = tmp_path / "s.safetensors"
    error = one_sentence(main, network, "--format=safetensors", f"--out={out}")
    assert "The exported file differs from the network by" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--format=onnx", "--out=o"], "--network is missing"),
        (["--network=x", "--out=o"], "--format is missing"),
        (["--network=x", "--format=onnx"], "--out is missing"),
        (["--network=x", "--format=pb", "--out=o"], "--format = 'pb' is unknown"),
        (["--network=x", "--format=onnx", "--out=o", "--split=test"], "without --source"),
        (["--network=x", "--format=onnx", "--out=o", "--source=digits", "--check=c"],
         "--check is not used with --source"),
        (["--network=x", "--format=onnx", "--out=/proc/no/o"], "cannot be written"),
        (["--network=/nowhere", "--format=onnx", "--out=o"], "is no finished stage"),
    ],
)  # fmt: skip
def test_what_the_user_can_fix_is_one_sentence(
    one_sentence, tmp_path, monkeypatch, arguments, says
):
    monkeypatch.chdir(tmp_path)
    assert says in one_sentence(main, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_images_that_do_not_fit_are_one_sentence(network, one_sentence, tmp_path):
    options = [network, "--format=safetensors", f"--out={tmp_path / 'o'}"]
    assert "would be squeezed" in one_sentence(main, *options, "--size=8x4")
    error = one_sentence(main, *options, "--size=16x16", *labeled(tmp_path))
    assert "have the shape [8, 8, 1], but the file takes [16, 16, 1]" in error
