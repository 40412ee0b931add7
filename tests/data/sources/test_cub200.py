"""The layout of the archive CUB_200_2011, on a made-up tree."""

import numpy as np
import pytest
from small_sets import save

from kd_jax.core.errors import UsageError
from kd_jax.data import Fit
from kd_jax.data.sources.cub200 import Cub200


@pytest.fixture
def root(tmp_path):
    """Two images of each class; only those of the classes 1 and 101 are there."""
    names = [f"{label:03}.Bird/{i}.jpg" for label in range(1, 201) for i in range(2)]
    lines = "".join(f"{i} {name}\n" for i, name in enumerate(names, 1))
    (tmp_path / "images.txt").write_text(lines)
    labels = "".join(f"{i} {(i + 1) // 2}\n" for i in range(1, 401))
    (tmp_path / "image_class_labels.txt").write_text(labels)
    for label in (1, 101):
        for i in range(2):
            save(tmp_path / "images" / f"{label:03}.Bird" / f"{i}.jpg", label, (6 + i, 5))
    return tmp_path


def test_the_splits_are_those_of_retrieval(root):
    source = Cub200(str(root), Fit((4, 4)))
    train, test = source.open("train"), source.open("test")
    np.testing.assert_array_equal(train.labels, np.tile(np.arange(100), 2))
    np.testing.assert_array_equal(test.labels, np.tile(np.arange(100, 200), 2))
    assert (train.num_classes, test.num_classes) == (100, 200)
    for images, label in ((train, 1), (test, 101)):
        assert images.names[0] == f"images/{label:03}.Bird/0.jpg"
        assert (images.take([0, 100]) == label).all()
    with pytest.raises(UsageError, match=r"002\.Bird/0\.jpg cannot be read \(No such file"):
        train.read(1)


def test_wrong_layouts_are_named(root):
    labels = root / "image_class_labels.txt"
    text = labels.read_text()
    for wrong, says in (
        (text.replace("\n400 200", ""), "list different images: unpack the archive again"),
        (text.replace(" 200\n", " 201\n"), "does not have exactly the classes 1 to 200: unpack"),
        (text.replace(" 200\n", " x\n"), "has 'x' in place of the number of a class: set data"),
    ):
        labels.write_text(wrong)
        with pytest.raises(UsageError, match=says):
            Cub200(str(root)).open("train")
    with pytest.raises(UsageError, match=r"cannot be read .*to the folder CUB_200_2011 of the"):
        Cub200(str(root / "images")).open("train")
