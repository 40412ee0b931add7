import argparse

import numpy as np
import pytest
import small_config

from kd_jax.data import ImageSet
from kd_jax.errors import UsageError
from kd_jax.pipeline import Run


@pytest.fixture(scope="module")
def tsne(script):
    return script("tsne.py")


def images(per_class):
    labels = np.repeat(np.arange(len(per_class)), per_class).astype(np.int32)
    pixels = np.arange(len(labels), dtype=np.uint8)[:, None, None, None]
    return ImageSet(pixels, labels, len(per_class))


def options(**values):
    return argparse.Namespace(**{"classes": 2, "images": 3, "seed": 0, **values})


def test_every_student_sees_the_same_images(tsne):
    first, again = (tsne.choose(images([5, 2, 9, 4]), options()) for _ in range(2))
    np.testing.assert_array_equal(first.images, again.images)
    assert sorted(np.bincount(first.labels))[-2:] == [3, 3]
    assert 1 not in first.labels  # two images are not enough
    assert len(np.unique(first.images)) == 6
    others = [tsne.choose(images([5, 2, 9, 4]), options(seed=s)).images for s in range(1, 6)]
    assert not all(np.array_equal(first.images, x) for x in others)
    with pytest.raises(UsageError, match="3 classes have --images=3 test images or more"):
        tsne.choose(images([5, 2, 9, 4]), options(classes=4))


def test_neighbours_of_their_own_class(tsne):
    rows = np.array([[0.0], [0.1], [1.0], [1.1], [1.12]])
    assert tsne.neighbours(rows, np.array([0, 0, 1, 1, 0])) == pytest.approx(3 / 5)


@pytest.mark.usefixtures("one_device")
def test_draws_the_students_of_a_run(tsne, tmp_path, capsys):
    config = small_config.get_config().to_dict()
    config["stages"] = {"teacher": {**config["stages"]["teacher"], "epochs": 0.1}}
    config["pipeline"] = ("teacher",)
    Run(config, tmp_path / "run").run()
    stage = tmp_path / "run" / "teacher"
    few = ["--classes=3", "--images=3", f"--workdir={tmp_path}"]
    assert tsne.main([f"{stage}", f"again={stage}", *few]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split("|")[2] == lines[3].split("|")[2]
    assert [line.split()[1] for line in lines[2:4]] == ["teacher", "again"]
    assert (tmp_path / "tsne.png").read_bytes().startswith(b"\x89PNG")
    assert tsne.main([f"{tmp_path}/nothing/stage", *few]) == 2
    assert "belongs to no run" in capsys.readouterr().err
