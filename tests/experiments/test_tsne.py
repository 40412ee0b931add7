import argparse
import json

import numpy as np
import pytest
import small_config
from etils import epath

import kd_jax
from experiments import tsne
from kd_jax.data import ImageSet


def options(**values):
    return argparse.Namespace(**{"classes": 2, "images": 3, "seed": 0, **values})


def test_the_seed_chooses_classes_and_images():
    labels = np.repeat(np.arange(4), [5, 2, 9, 4]).astype(np.int32)
    pixels = np.arange(len(labels), dtype=np.uint8)[:, None, None, None]
    images = ImageSet(pixels, labels, 4)
    first, again, *others = (tsne.choose(images, options(seed=s)) for s in (0, 0, 1, 2, 3, 4))
    np.testing.assert_array_equal(first.images, again.images)
    assert not all(np.array_equal(first.images, other.images) for other in others)
    assert sorted(np.bincount(first.labels))[-2:] == [3, 3]
    assert 1 not in first.labels  # it has two images only
    assert len(np.unique(first.images)) == 6
    with pytest.raises(kd_jax.UsageError, match="3 classes have --images=3 test images or more"):
        tsne.choose(images, options(classes=4))


def test_the_fraction_of_nearest_neighbors_of_the_same_class():
    rows = np.array([[0.0], [0.1], [1.0], [1.1], [1.12]])
    assert tsne.neighbor_fraction(rows, np.array([0, 0, 1, 1, 0])) == pytest.approx(3 / 5)


@pytest.mark.parametrize("number", [1, 10, 11, 200])
def test_all_colors_differ(number):
    assert len(set(tsne.colors(number))) == number


def test_students_of_other_images_are_refused(tmp_path):
    students = {}
    for name, changes in {
        "one": {},
        "same": {"test_split": "test[:50]", "batch_size": 20},
        "fewer": {"test_split": "test[:40]"},
    }.items():
        config = small_config.get_config().to_dict()
        config["data"] |= changes
        students[name] = epath.Path(tmp_path / name / "student")
        students[name].parent.mkdir()
        (students[name].parent / "results.json").write_text(json.dumps({"config": config}))
    alike = {name: students[name] for name in ("one", "same")}
    assert len(tsne._common_images(alike)) == 50
    with pytest.raises(kd_jax.UsageError, match=r"fewer was tested on other images .* than one"):
        tsne._common_images(students)


@pytest.mark.usefixtures("one_device")
@pytest.mark.long
def test_draws_the_students_of_a_run(tmp_path, capsys, rows):
    config = small_config.get_config().to_dict()
    config["stages"] = {"teacher": {**config["stages"]["teacher"], "epochs": 0.1}}
    kd_jax.run(config, tmp_path / "run")
    stage = tmp_path / "run" / "teacher"
    few = ["--classes=3", "--images=3", f"--workdir={tmp_path}"]
    assert tsne.main([f"{stage}", f"again={stage}", *few]) == 0
    table = rows(capsys.readouterr().out)
    assert table["teacher"] == table["again"]
    assert (tmp_path / "tsne.png").read_bytes().startswith(b"\x89PNG")
