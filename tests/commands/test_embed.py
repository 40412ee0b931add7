"""The command that writes embeddings."""

import json

import numpy as np
import pytest
import small_config
import small_faces

import kd_jax
from kd_jax.commands.embed import main
from kd_jax.data.sources.digits import Digits
from kd_jax.pretrained.recorded import read_recorded


@pytest.fixture
def network(trained):
    return f"--network={trained[0] / 'student'}"


def embedded(out, *arguments):
    """Runs the command; returns names, embeddings and options in the file."""
    assert main([*map(str, arguments), f"--out={out}"]) == 0
    with np.load(out) as file:
        return file["names"], file["embeddings"], json.loads(str(file["made_with"]))


def test_a_folder_or_a_list_of_images(faces, network, trained, tmp_path, capsys):
    out = tmp_path / "embeddings.npz"
    names, embeddings, made_with = embedded(out, network, f"--images={faces}", "--flip")
    assert made_with == {
        "network": str(trained[0] / "student"),
        "role": None,
        "checkpoint": "last",
        "size": None,
        "flip": True,
        "unit": True,
    }
    assert len(names) == len(embeddings) == small_faces.PERSONS * small_faces.IMAGES
    assert names[1] == "Person_0/Person_0_0002.png"
    assert f"40 embeddings of {embeddings.shape[1]} numbers" in capsys.readouterr().out
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-5)
    images = tmp_path / "list.txt"
    images.write_text("\n".join(str(faces / name) for name in names[[7, 1]]) + "\n\n")
    listed, raw, _ = embedded(out, network, f"--images={images}", "--flip", "--raw")
    assert listed.tolist() == [str(faces / name) for name in names[[7, 1]]]
    unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    np.testing.assert_allclose(unit, embeddings[[7, 1]], rtol=1e-3, atol=1e-5)
    _, without, _ = embedded(out, network, f"--images={images}", "--raw", "--no-flip")
    assert not np.allclose(raw, without, rtol=0.01)
    name, one, _ = embedded(out, network, f"--images={faces / names[1]}", "--raw", "--flip")
    assert name.tolist() == ["Person_0_0002.png"]
    np.testing.assert_allclose(one, raw[1:], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "--network is missing: type for example `kd-jax embed --network="),
        (["--network=x"], "--images is missing"),
        (["--network=x", "--images=i"], "--out is missing"),
        (["--network=x", "--images=i", "--out=/proc/no/e.npz"], "cannot be written"),
        (["--network=x", "--images=/nowhere", "--out=o"], "cannot be read"),
        (["--network=x", "--images=i", "--out=o", "--size=1"], "must be HEIGHTxWIDTH"),
    ],
)
def test_what_the_user_can_fix_is_one_sentence(
    one_sentence, tmp_path, monkeypatch, arguments, says
):
    monkeypatch.chdir(tmp_path)
    assert says in one_sentence(main, *arguments)


def test_an_empty_list_is_one_sentence(one_sentence, tmp_path):
    (tmp_path / "list.txt").write_text("\n")
    options = (f"--images={tmp_path / 'list.txt'}", f"--out={tmp_path / 'e.npz'}")
    assert "names no images" in one_sentence(main, "--network=x", *options)
    assert not (tmp_path / "e.npz").exists()


def test_images_of_another_aspect_are_one_sentence(faces, network, one_sentence, tmp_path):
    options = (f"--images={faces}", f"--out={tmp_path / 'e.npz'}", "--size=12x12")
    assert "would be squeezed" in one_sentence(main, network, *options)


def test_outputs_of_a_source_teach_as_a_recorded_network(tmp_path):
    """The file holds what a recorded teacher needs, under the names of the source."""
    config = small_config.get_config().to_dict()
    kd_jax.run(config, tmp_path / "run", stages=["teacher"])
    out = tmp_path / "outputs.npz"
    teacher = f"--network={tmp_path / 'run' / 'teacher'}"
    assert (
        main([teacher, "--source=digits", "--split=train[:200]", "--logits", f"--out={out}"]) == 0
    )
    images = Digits().load("train[:160]")
    recorded = read_recorded(str(out), "path")
    rows = recorded.select(images.names, "path")
    expected = kd_jax.load(tmp_path / "run" / "teacher")(images.images).logits
    np.testing.assert_allclose(recorded.logits[rows], expected, rtol=1e-4, atol=1e-5)
    assert len(recorded.logits) == len(recorded.embedding) == 200


def test_options_of_a_source(one_sentence, network, tmp_path):
    out = f"--out={tmp_path / 'out.npz'}"
    assert "--images is missing" in one_sentence(main, network, out)
    assert "not used without --source" in one_sentence(
        main, network, out, "--images=x", "--split=train"
    )
    assert "--images is not used with --source" in one_sentence(
        main, network, out, "--source=digits", "--images=x"
    )
    assert "--source.path is missing" in one_sentence(main, network, out, "--source=npz")
