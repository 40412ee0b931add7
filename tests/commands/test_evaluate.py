"""The command that evaluates classifiers and faces."""

import json

import numpy as np
import pytest
from PIL import Image

from kd_jax.commands.evaluate import main


@pytest.fixture
def network(trained):
    return f"--network={trained[0] / 'student'}"


def run(*arguments):
    assert main([str(argument) for argument in arguments]) == 0


def test_a_classifier_at_several_resolutions(faces, network, trained, tmp_path, capsys):
    out = tmp_path / "results.json"
    source = ("--source=face_folder", f"--path={faces}", f"--source.include={faces}/persons.txt")
    run(network, *source, "--resolutions=full,4", f"--out={out}")
    metrics = json.loads(out.read_text())
    assert list(metrics["resolutions"]) == ["full", "4"]
    assert metrics["accuracy"] == pytest.approx(trained[1]["stages"][1]["last"]["accuracy"])
    assert metrics["resolutions"]["full"]["accuracy"] == metrics["accuracy"]
    include = str(faces / "persons.txt")
    assert metrics["source"] == {"name": "face_folder", "path": str(faces), "include": include}
    assert metrics["split"] == "test"
    confusion = np.array(metrics["resolutions"]["4"]["confusion"])
    assert confusion.sum() == metrics["resolutions"]["4"]["images"]
    printed = capsys.readouterr().out
    assert f"| 4          | {100 * metrics['resolutions']['4']['accuracy']:8.2f} |" in printed
    for resolution in ("full", "4"):
        drawn = tmp_path / f"results_confusion_{resolution}.png"
        assert drawn.read_bytes().startswith(b"\x89PNG")
        assert f"confusion matrix drawn in {drawn}\n" in printed


def test_a_source_with_more_classes_than_the_network(faces, network, one_sentence):
    options = ("--source=face_folder", f"--path={faces}")
    says = "The images have 8 classes, but the network has 6"
    assert says in one_sentence(main, network, *options)


def test_pairs_at_several_sizes(faces, network, trained, tmp_path, capsys):
    out = tmp_path / "new" / "results.json"
    pairs = (f"--pairs={faces / 'pairs.txt'}", f"--images={faces}", f"--out={out}")
    run(network, *pairs, "--probe_sizes=4,full", "--protocol=sphereface", "--down=cv2_area")
    metrics = json.loads(out.read_text())
    assert list(metrics["sizes"]) == ["4", "full"]
    assert metrics["network"] == str(trained[0] / "student")
    assert metrics["sizes"]["full"]["protocol"]["name"] == "sphereface"
    assert metrics["sizes"]["full"]["accuracy"] > 0.7
    assert metrics["degradation"] == {"down": "cv2_area", "up": "bicubic", "blur": 0.5}
    assert metrics["mode"] == "hr_lr"
    accuracy = 100 * metrics["sizes"]["4"]["accuracy"]
    assert f"| 4     |    {accuracy:.2f} |" in capsys.readouterr().out


def test_a_threshold_that_is_set_beforehand(faces, network, tmp_path, capsys):
    """HORKD, section 4.2."""
    out = tmp_path / "results.json"
    pairs = (f"--pairs={faces / 'pairs.txt'}", f"--images={faces}", f"--out={out}")
    options = (*pairs, "--probe_sizes=full,4", "--protocol=plain", "--down=none")
    run(network, *options, f"--threshold_pairs={faces / 'pairs.txt'}")
    metrics = json.loads(out.read_text())
    assert metrics["threshold_pairs"] == str(faces / "pairs.txt")
    assert metrics["degradation"]["down"] == "none"
    for size in ("full", "4"):
        found = metrics["sizes"][size]
        assert len(set(found["thresholds"])) == 1
        assert found["protocol"]["name"] == "plain, preset threshold"
    run(network, *options, "--threshold=-2")
    metrics = json.loads(out.read_text())
    assert metrics["sizes"]["4"]["accuracy"] == 0.5
    assert metrics["sizes"]["4"]["thresholds"] == [-2.0] * 10


def test_a_folder_that_is_divided_by_a_fraction(faces, network, tmp_path):
    out = tmp_path / "results.json"
    options = ("--identities=8", "--probe_sizes=full", "--probe_fraction=0.2")
    run(network, f"--folder={faces}", *options, "--ranked=identities", f"--out={out}")
    (result,) = json.loads(out.read_text())["probes"].values()
    assert (result["gallery"], result["probes"]) == (8 * 4, 8)
    assert list(result["cmc"]) == ["1", "5"]


def test_identities_of_a_folder(faces, network, tmp_path, capsys, one_sentence):
    options = (f"--folder={faces}", "--identities=8", "--probe_sizes=4,full", "--seed=3")
    out = tmp_path / "results.json"
    run(network, *options, f"--out={out}")
    metrics = json.loads(out.read_text())
    assert list(metrics["probes"]) == ["probes, 4", "probes, full"]
    assert metrics["probes"]["probes, full"]["probes"] == 8 * 4
    assert 0.5 < metrics["probes"]["probes, full"]["cmc"]["1"] <= 1
    assert "rank 1" in capsys.readouterr().out
    assert "9 identities" in one_sentence(main, network, f"--folder={faces}", "--identities=9")


def test_scface(network, tmp_path, capsys):
    rng = np.random.default_rng(1)
    kinds = ("frontal", *(f"cam{c}_{d}" for c in range(1, 6) for d in (1, 2, 3)))
    for person in range(1, 131):
        for kind in kinds:
            noise = rng.integers(0, 256, (14, 12, 3), dtype=np.uint8)
            Image.fromarray(noise).save(tmp_path / f"{person:03d}_{kind}.png")
    run(network, f"--scface={tmp_path}")
    table = capsys.readouterr().out
    assert "rank 1" in table
    assert [line.split()[1] for line in table.splitlines()[2:5]] == ["4.2m", "2.6m", "1.0m"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "--network is missing: type for example `kd-jax evaluate --network="),
        (["--network=x"], "Give one of --source, --pairs"),
        (["--network=x", "--bin=b", "--pairs=p"], "Give one of --source, --pairs"),
        (["--network=x", "--pairs=p"], "--images is missing"),
        (["--network=x", "--bin=b", "--source.path=p"], "--source.path is not used without"),
        (["--network=x", "--bin=b", "--resolutions=4"], "--resolutions is not used with --bin"),
        (["--network=x", "--source=digit"], "'digit' is unknown: choose one of digits"),
        (["--network=x", "--source=npz"], "--source.path is missing"),
        (["--network=x", "--source=digits", "--path=p"], "source.path is not used by Digits"),
        (["--network=x", "--source=digits", "--split=tst"], "split 'tst' cannot be read"),
        (["--network=x", "--source=digits", "--size=8x8"], "--size is not used with --source"),
        (["--network=x", "--source=digits", "--resolutions=low"], "--resolutions=low must be"),
        (["--network=x", "--bin=b", "--mode=lr"], "--mode = 'lr' is unknown"),
        (["--network=x", "--bin=b", "--images=i"], "--images is not used with --bin"),
        (["--network=x", "--folder=f", "--mode=lr_lr"], "--mode is not used with"),
        (["--network=x", "--scface=f", "--seed=1"], "--seed is not used with"),
        (["--network=x", "--folder=f", "--seed=99999999999999999999"], "--seed"),
        (["--network=x", "--folder=f", "--seed=-1"], "whole number from 0"),
        (["--network=x", "--folder=f", "--identities=few"], "few must be a whole number from 1"),
        (["--network=x", "--bin=b", "--out=/proc/no/r.json"], "cannot be written"),
        (["--network=x", "--bin=b", "--out=/tmp"], "it is a folder"),
        (["--network=x", "--bin=b", "--protocol=lfw"], "--protocol = 'lfw' is unknown"),
        (["--network=x", "--bin=b", "--down=cubic"], "'cubic' is unknown"),
        (["--network=x", "--bin=b", "--down=none", "--blur=0"], "blur must be greater than 0"),
        (["--network=x", "--scface=f", "--blur=1"], "--blur is not used with --scface"),
        (["--network=x", "--bin=b", "--threshold=1", "--threshold_pairs=p"], "omit one"),
        (["--network=x", "--bin=b", "--threshold=1", "--protocol=sphereface"], "subtracts a mean"),
        (["--network=x", "--folder=f", "--threshold=1"], "--threshold is not used with --folder"),
        (["--network=x", "--folder=f", "--probe_fraction=1"], "--probe_fraction must be 0 or more"),
        (["--network=x", "--folder=f", "--min_images=0"], "0 must be a whole number from 1 to"),
        (["--network=x", "--folder=f", "--ranked=faces"], "--ranked = 'faces' is unknown"),
        (["--network=x", "--bin=b", "--size=112"], "--size=112 must be HEIGHTxWIDTH"),
        (["--network=x", "--bin=b", "--probe_sizes=8,small"], "heights separated by commas"),
        (["--network=/nowhere", "--bin=b"], "--network = '/nowhere' is no finished stage"),
    ],
)
def test_what_the_user_can_fix_is_one_sentence(one_sentence, arguments, says):
    assert says in one_sentence(main, *arguments)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (["--size=14x10"], "would be squeezed"),
        (["--probe_sizes=20"], "cannot be reduced to 20: choose 1 to 14"),
        (["--checkpoint=lats"], "checkpoint of --network = 'lats' is unknown: choose one of last"),
        (["--role=assistant"], "has no role 'assistant': its roles are student"),
    ],
)
def test_what_cannot_be_evaluated_is_one_sentence(faces, network, one_sentence, changes, says):
    pairs = (f"--pairs={faces / 'pairs.txt'}", f"--images={faces}")
    assert says in one_sentence(main, network, *pairs, *changes)


def test_a_gallery_of_one_is_one_sentence(faces, network, one_sentence):
    options = (f"--folder={faces}", "--identities=1")
    assert "cannot be evaluated" in one_sentence(main, network, *options)
