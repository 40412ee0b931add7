"""The command that predicts the classes of image files."""

import csv
import json

import numpy as np
import pytest
from PIL import Image
from small_trained import small_trained

import kd_jax
from kd_jax.commands.predict import main
from kd_jax.data import Fit
from kd_jax.pretrained.exporting import FORMATS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folder with a network in one file, and with two images, of which one is in a folder."""
    folder = tmp_path_factory.mktemp("predict")
    content = FORMATS["safetensors"].write(small_trained(), (8, 8))
    (folder / "student.safetensors").write_bytes(content)
    (folder / "images" / "more").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 9, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels[0]).save(folder / "images" / "b.png")
    Image.fromarray(pixels[1]).save(folder / "images" / "more" / "a.png")
    return folder


@pytest.fixture
def network(folder):
    return f"--network={folder / 'student.safetensors'}"


def test_table_json_and_csv_have_the_same_classes(folder, network, capsys, tmp_path):
    files = [str(folder / "images" / name) for name in ("b.png", "more/a.png")]
    expected = kd_jax.load(folder / "student.safetensors").predict(files, top_k=2)
    images = str(folder / "images")
    assert main([network, images, "--top_k=2"]) == 0
    table = capsys.readouterr().out.splitlines()
    for line, file, (best, other) in zip(table[2:], files, expected, strict=True):
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        assert cells[:3] == [file, best.name, f"{100 * best.probability:.1f} %"]
        assert cells[3].startswith(f"{other.name} ")
    assert main([network, "--format=json", "--top_k=2", *files]) == 0
    results = json.loads(capsys.readouterr().out)
    assert [one["image"] for one in results] == files
    for one, classes in zip(results, expected, strict=True):
        assert [c["class"] for c in one["predictions"]] == [c.name for c in classes]
        found = [c["probability"] for c in one["predictions"]]
        np.testing.assert_allclose(found, [c.probability for c in classes], rtol=1e-4)
    names = tmp_path / "names.txt"
    names.write_text("\n".join("vwxyz"))
    out = tmp_path / "new" / "classes.csv"
    options = ["--format=csv", "--top_k=1", f"--out={out}", f"--classes={names}"]
    assert main([network, images, *options]) == 0
    assert "the classes of 2 images are in" in capsys.readouterr().out
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert [row["image"] for row in rows] == files
    assert [row["class"] for row in rows] == ["vwxyz"[classes[0].label] for classes in expected]


def test_training_stores_the_shape_of_the_images(trained):
    info = kd_jax.load(trained[0] / "student").info
    assert info.fit == Fit((14, 12))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "--network is missing: type for example `kd-jax predict --network="),
        (["--network=x"], "An image or a folder is missing"),
        (["--network=x", "i.png", "--format=xml"], "--format = 'xml' is unknown: choose one of"),
        (["--network=x", "i.png", "--top_k=0"], "must be a whole number from 1"),
        (["--network=x", "i.png", "--out=/proc/no/e"], "cannot be written"),
        (["--network=x", "."], "holds no images"),
        (["--network=/nowhere", "i.png"], "is no finished stage"),
    ],
)
def test_what_the_user_can_fix_is_one_sentence(
    one_sentence, tmp_path, monkeypatch, arguments, says
):
    monkeypatch.chdir(tmp_path)
    assert says in one_sentence(main, *arguments)
