import argparse
import json

import numpy as np
import pytest
import small_config
from etils import epath

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


@pytest.mark.parametrize("number", [1, 2, 10, 11, 200])
def test_no_two_classes_have_one_colour(tsne, number):
    assert len(set(tsne.colours(number))) == number


def test_every_class_is_drawn_in_its_colour_and_named(tsne, monkeypatch):
    from matplotlib.figure import Figure

    figures = []
    savefig = Figure.savefig

    def keep(figure, *args, **kwargs):
        figures.append(figure)
        savefig(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    labels = np.repeat(np.arange(0, 100, 10), 3)
    rows = np.random.default_rng(0).normal(size=(len(labels), 4)).astype(np.float32)
    tsne.draw({"one": rows, "two": rows}, labels, options(perplexity=5.0))
    drawn = [
        {str(points.get_label()): tuple(points.get_facecolor()[0]) for points in axes.collections}
        for axes in figures[0].axes
    ]
    assert drawn[0] == drawn[1]
    assert list(drawn[0]) == [str(label) for label in range(0, 100, 10)]
    assert len(set(drawn[0].values())) == 10
    (legend,) = figures[0].legends
    assert [text.get_text() for text in legend.get_texts()] == list(drawn[0])


def test_students_of_other_images_are_refused(tsne, tmp_path):
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
    says = (
        r"fewer was tested on other images .* one \('test\[:40\]' of Digits\(\), not 'test\[:50\]'"
    )
    with pytest.raises(UsageError, match=says):
        tsne._common_images(students)


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
