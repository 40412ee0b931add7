"""Faces from the disk to the numbers: streaming, degradation, evaluation and embedding."""

import json
import signal
import sys

import numpy as np
import pytest
import small_faces
from PIL import Image

from kd_jax.data import Degradation, Streamed
from kd_jax.data.face_pairs import read_pairs
from kd_jax.embed import main as embed_main
from kd_jax.embedding import Embedder
from kd_jax.errors import UsageError
from kd_jax.evaluate import main as evaluate_main
from kd_jax.evaluation import lr_verification, verification
from kd_jax.pipeline import Run
from kd_jax.training import Stopped
from kd_jax.weights import load


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faces")
    small_faces.write(folder)
    return folder


def numbers(summary):
    return [(stage["last"], stage["best"]) for stage in summary["stages"]]


@pytest.fixture(scope="module")
def finished(faces, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    return workdir, Run(small_faces.get_config(faces), workdir).run()


def test_a_streamed_run_is_the_same_run(faces, finished, tmp_path):
    streamed = Run(small_faces.get_config(faces, stream=True), tmp_path).run()
    assert numbers(streamed) == numbers(finished[1])


def test_a_streamed_run_under_pmap(faces, finished, tmp_path):
    config = small_faces.get_config(faces, stream=True) | {"execution": "pmap", "num_devices": 2}
    found = numbers(Run(config, tmp_path).run())
    for (last, _), (expected, _) in zip(found, numbers(finished[1]), strict=True):
        assert last == pytest.approx(expected, rel=1e-4)


def test_an_interrupted_stream_ends_bit_for_bit_as_if_it_had_not_been(
    faces, finished, tmp_path, monkeypatch
):
    config = small_faces.get_config(faces, stream=True)
    steps = Streamed.steps

    def stopping(self, order, step, count):
        if step == 4:
            signal.raise_signal(signal.SIGTERM)
        return steps(self, order, step, count)

    with monkeypatch.context() as patch:
        patch.setattr(Streamed, "steps", stopping)
        with pytest.raises(Stopped, match="saved at step 5"):
            Run(config, tmp_path).run()
    assert numbers(Run(config, tmp_path).run()) == numbers(finished[1])


def test_a_set_that_cannot_stream_says_so(tmp_path):
    config = small_faces.get_config(tmp_path, stream=True)
    config["data"]["source"] = {"name": "digits"}
    with pytest.raises(UsageError, match=r"Digits lies in memory .* leave data.stream False"):
        Run(config, tmp_path / "run")


def test_normalisation_of_the_wrong_number_of_channels(faces, tmp_path):
    normalisation = {"mean": (0.5, 0.5), "deviation": (0.5,)}
    config = small_faces.get_config(faces, normalisation=normalisation)
    with pytest.raises(UsageError, match=r"2 means and 1 deviations, but the images 3 channels"):
        Run(config, tmp_path / "run")


def test_a_degradation_that_cannot_be_names_its_key(faces, tmp_path):
    config = small_faces.get_config(faces)
    config["stages"]["student"]["networks"]["student"]["degradation"]["share"] = 2.0
    with pytest.raises(UsageError, match=r"networks.student.degradation: share must be 0 to 1"):
        Run(config, tmp_path / "run")


def test_a_degradation_beyond_the_images_names_its_key(faces, tmp_path):
    config = small_faces.get_config(faces)
    config["stages"]["student"]["networks"]["student"]["degradation"]["sizes"] = (3, 13)
    with pytest.raises(UsageError, match=r"student.degradation.sizes \(3, 13\) go beyond .* 12"):
        Run(config, tmp_path / "run")


@pytest.mark.parametrize("execution", ["jit", "pmap"])
def test_a_loss_that_a_network_cannot_have_is_found_at_once(faces, tmp_path, execution):
    config = small_faces.get_config(faces)
    config["execution"] = execution
    config["stages"]["student"]["method"]["loss"] = "arcface"
    with pytest.raises(UsageError, match=r"stages.student.method: .* needs a classifier by angle"):
        Run(config, tmp_path / "run")


@pytest.fixture(scope="module")
def embedder(finished):
    return Embedder(load(finished[0] / "student"), batch_size=16)


def test_embeddings_are_the_networks_whatever_the_batches_and_devices(faces, finished, embedder):
    images = read_pairs(str(faces / "pairs.txt"), str(faces)).images
    trained = load(finished[0] / "student")
    np.testing.assert_allclose(embedder(images), trained(images).embedding, rtol=1e-4, atol=1e-6)
    one = Embedder(trained, batch_size=7, num_devices=1)
    np.testing.assert_allclose(one(images), embedder(images), rtol=1e-4, atol=1e-6)


def test_embeddings_at_low_resolution_and_of_mirror_images(faces, finished, embedder):
    images = read_pairs(str(faces / "pairs.txt"), str(faces)).images
    low = np.asarray(Degradation().to(images.astype(np.float32), 4))
    trained = load(finished[0] / "student")
    np.testing.assert_allclose(
        embedder(images, size=4), trained(low).embedding, rtol=1e-4, atol=1e-6
    )
    mirrored = embedder(images, mirrored=True)
    np.testing.assert_allclose(mirrored, embedder(images[:, :, ::-1].copy()), rtol=1e-4, atol=1e-6)
    assert not np.allclose(mirrored, embedder(images))


def test_no_images_are_an_error(embedder):
    with pytest.raises(UsageError, match="no images to embed"):
        embedder(np.zeros((0, 14, 12, 3), np.uint8))


@pytest.mark.parametrize("mode", ["hr_lr", "lr_lr"])
def test_only_the_probe_is_reduced_or_both(faces, embedder, mode):
    pairs = read_pairs(str(faces / "pairs.txt"), str(faces))
    found = lr_verification(embedder, pairs, (4, None), mode=mode)
    assert list(found) == [4, None]
    images, size = pairs.images, 4 if mode == "lr_lr" else None
    expected = verification(
        embedder(images, size=size)[pairs.first],
        embedder(images, size=4)[pairs.second],
        pairs.same,
        pairs.fold,
        first_mirrored=embedder(images, size=size, mirrored=True)[pairs.first],
        second_mirrored=embedder(images, size=4, mirrored=True)[pairs.second],
    )
    assert found[4].accuracy == expected.accuracy
    assert found[4].auc == pytest.approx(expected.auc, abs=0.01)
    assert found[None].accuracy > 0.7  # the patterns are easily told apart


def test_an_unknown_mode_is_an_error(faces, embedder):
    pairs = read_pairs(str(faces / "pairs.txt"), str(faces))
    with pytest.raises(ValueError, match="mode 'lr' is unknown: choose one of hr_lr, lr_lr"):
        lr_verification(embedder, pairs, mode="lr")


def command(monkeypatch, main, *arguments):
    monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
    return main()


def test_the_evaluate_command(faces, finished, tmp_path, monkeypatch, capsys):
    out = tmp_path / "results.json"
    stage, pairs = f"--network={finished[0] / 'student'}", f"--pairs={faces / 'pairs.txt'}"
    sizes = ("--probe_sizes=4,full", "--protocol=sphereface", "--down=cv2_area")
    assert not command(
        monkeypatch, evaluate_main, stage, pairs, f"--images={faces}", f"--out={out}", *sizes
    )
    found = json.loads(out.read_text())
    assert list(found["sizes"]) == ["4", "full"]
    assert found["sizes"]["full"]["protocol"]["name"] == "sphereface"
    assert found["degradation"] == {"down": "cv2_area", "up": "bicubic", "blur": 0.0}
    assert found["mode"] == "hr_lr"
    accuracy = 100 * found["sizes"]["4"]["accuracy"]
    assert f"| 4     |    {accuracy:.2f} |" in capsys.readouterr().out


def test_the_evaluate_command_on_scface(finished, tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(1)
    names = [
        f"{person:03d}_{kind}"
        for person in range(1, 131)
        for kind in ("frontal", *(f"cam{c}_{d}" for c in range(1, 6) for d in (1, 2, 3)))
    ]
    for name in names:
        noise = rng.integers(0, 256, (14, 12, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{name}.png")
    stage = f"--network={finished[0] / 'student'}"
    assert not command(monkeypatch, evaluate_main, stage, f"--scface={tmp_path}")
    table = capsys.readouterr().out
    assert "rank 1" in table
    assert [line.split()[1] for line in table.splitlines()[2:5]] == ["4.2m", "2.6m", "1.0m"]


def test_the_embed_command_takes_a_folder_or_a_list(faces, finished, tmp_path, monkeypatch):
    stage, out = f"--network={finished[0] / 'student'}", tmp_path / "embeddings.npz"
    assert not command(
        monkeypatch, embed_main, stage, f"--images={faces}", f"--out={out}", "--flip"
    )
    with np.load(out) as file:
        names, embeddings = file["names"], file["embeddings"]
        assert json.loads(str(file["made_with"]))["flip"]
    assert len(names) == len(embeddings) == small_faces.PERSONS * small_faces.IMAGES
    assert names[1] == "Person_0/Person_0_0002.png"
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-5)
    (tmp_path / "list.txt").write_text("\n".join(str(faces / name) for name in names[[7, 1]]))
    options = (f"--images={tmp_path / 'list.txt'}", f"--out={out}", "--flip", "--raw")
    assert not command(monkeypatch, embed_main, stage, *options)
    with np.load(out) as file:
        raw = file["embeddings"]
    unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    np.testing.assert_allclose(unit, embeddings[[7, 1]], rtol=1e-3, atol=1e-5)


def test_the_evaluate_command_on_identities_of_a_folder(
    faces, finished, tmp_path, monkeypatch, capsys
):
    stage = f"--network={finished[0] / 'student'}"
    options = (f"--folder={faces}", "--identities=8", "--probe_sizes=4,full", "--seed=3")
    out = tmp_path / "results.json"
    assert not command(monkeypatch, evaluate_main, stage, *options, f"--out={out}")
    found = json.loads(out.read_text())
    assert list(found["probes"]) == ["probes, 4", "probes, full"]
    assert found["probes"]["probes, full"]["probes"] == 8 * 4
    assert 0.5 < found["probes"]["probes, full"]["cmc"]["1"] <= 1
    assert "rank 1" in capsys.readouterr().out
    options = (f"--folder={faces}", "--identities=9")
    assert command(monkeypatch, evaluate_main, stage, *options) == 2
    assert "9 identities" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("main", "arguments", "says"),
    [
        (evaluate_main, [], "--network is missing: type for example `python -m kd_jax.evaluate"),
        (evaluate_main, ["--network=x"], "Give one of --pairs"),
        (evaluate_main, ["--network=x", "--bin=b", "--pairs=p"], "Give one of --pairs"),
        (evaluate_main, ["--network=x", "--bin=b", "--mode=lr"], "--mode=lr is unknown"),
        (
            evaluate_main,
            ["--network=x", "--bin=b", "--images=i"],
            "--images is not used with --bin",
        ),
        (evaluate_main, ["--network=x", "--folder=f", "--mode=lr_lr"], "--mode is not used with"),
        (evaluate_main, ["--network=x", "--scface=f", "--seed=1"], "--seed is not used with"),
        (evaluate_main, ["--network=x", "--folder=f", "--seed=99999999999999999999"], "--seed"),
        (evaluate_main, ["--network=x", "--bin=b", "--out=/proc/no/r.json"], "cannot be written"),
        (evaluate_main, ["--network=x", "--bin=b", "--protocol=lfw"], "--protocol=lfw is unknown"),
        (evaluate_main, ["--network=x", "--bin=b", "--down=cubic"], "filter 'cubic' is unknown"),
        (evaluate_main, ["--network=x", "--bin=b", "--size=112"], "must be HEIGHTxWIDTH"),
        (embed_main, ["--network=x"], "--images is missing"),
        (embed_main, ["--network=x", "--images=i", "--out=/proc/no/e.npz"], "cannot be written"),
        (embed_main, ["--network=x", "--images=/nowhere", "--out=o"], "cannot be read"),
    ],
)
def test_what_the_user_can_mend_is_one_sentence(monkeypatch, capsys, main, arguments, says):
    assert command(monkeypatch, main, *arguments) == 2
    error = capsys.readouterr().err
    assert says in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (["--size=14x10"], "would be squeezed to what the network has learnt to see, 14x12"),
        (["--probe_sizes=20"], "cannot be reduced to 20: choose 1 to 14"),
        (["--checkpoint=lats"], "checkpoint 'lats' is unknown: choose last or best"),
    ],
)
def test_what_cannot_be_evaluated_is_one_sentence(
    faces, finished, monkeypatch, capsys, changes, says
):
    arguments = [f"--network={finished[0] / 'student'}", f"--pairs={faces / 'pairs.txt'}"]
    assert command(monkeypatch, evaluate_main, *arguments, f"--images={faces}", *changes) == 2
    error = capsys.readouterr().err
    assert says in error
    assert len(error.splitlines()) == 1


def test_a_gallery_of_one_is_one_sentence(faces, finished, monkeypatch, capsys):
    arguments = (f"--network={finished[0] / 'student'}", f"--folder={faces}", "--identities=1")
    assert command(monkeypatch, evaluate_main, *arguments) == 2
    assert "cannot be evaluated" in capsys.readouterr().err


def test_images_of_other_channels_are_an_error(embedder):
    with pytest.raises(UsageError, match="has learnt to see 3 channels, but the images have 1"):
        embedder(np.zeros((2, 14, 12, 1), np.uint8))


def test_weights_from_elsewhere_must_see_the_same_part_of_the_images(faces, finished, tmp_path):
    config = small_faces.get_config(faces)
    config["data"]["source"]["size"] = (12, 12)
    stage = config["stages"]["student"]
    stage["networks"]["teacher"]["init_from"] = str(finished[0] / "teacher")
    config |= {"stages": {"student": stage}, "pipeline": ("student",)}
    with pytest.raises(UsageError, match=r"would be squeezed .* change data.source.size"):
        Run(config, tmp_path / "run")


@pytest.mark.parametrize("main", [evaluate_main, embed_main])
def test_help_lists_the_flags(monkeypatch, capsys, main):
    assert command(monkeypatch, main, "--help") == 0
    assert "--network" in capsys.readouterr().out


def test_wrong_probe_sizes_are_one_sentence(faces, finished, monkeypatch, capsys):
    arguments = (
        f"--network={finished[0] / 'student'}",
        f"--pairs={faces / 'pairs.txt'}",
        f"--images={faces}",
        "--probe_sizes=8,small",
    )
    assert command(monkeypatch, evaluate_main, *arguments) == 2
    assert "must be heights joined by commas, such as 8,16,full" in capsys.readouterr().err
