"""The two layouts of Cars196, on made-up trees."""

import numpy as np
import pytest
from scipy.io import savemat
from small_sets import save

from kd_jax.core.errors import UsageError
from kd_jax.data import Fit
from kd_jax.data.sources.cars196 import Cars196

CLASSES = np.tile(np.arange(1, 197), 2)


def write_annotations(path, classes=CLASSES):
    """Writes the fields of the official file: struct array [1, N]."""
    names = ("relative_im_path", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "test")
    rows = [
        (f"car_ims/{i:06}.jpg", 1, 1, 4, 4, int(number), 0) for i, number in enumerate(classes, 1)
    ]
    annotations = np.array([rows], [(name, object) for name in names])
    savemat(path, {"annotations": annotations, "class_names": np.array([["a", "b"]], object)})


def test_the_official_layout(tmp_path):
    write_annotations(tmp_path / "cars_annos.mat")
    save(tmp_path / "car_ims" / "000001.jpg", 7, (6, 5))
    save(tmp_path / "car_ims" / "000197.jpg", 9, (5, 6))
    source = Cars196(str(tmp_path), Fit((4, 4)))
    train, test = source.open("train"), source.open("test")
    np.testing.assert_array_equal(train.labels, np.tile(np.arange(98), 2))
    np.testing.assert_array_equal(test.labels, np.tile(np.arange(98, 196), 2))
    assert (train.num_classes, test.num_classes) == (98, 196)
    assert train.take([0, 98])[:, 0, 0, 0].tolist() == [7, 9]
    assert test.names[0] == "car_ims/000099.jpg"


def test_one_folder_per_class(tmp_path):
    for number in range(1, 197):
        (tmp_path / f"{number:03}.Car").mkdir()
        (tmp_path / f"{number:03}.Car" / "0.webp").write_bytes(b"")
    source = Cars196(str(tmp_path))
    assert source.open("train").names.tolist() == [f"{n:03}.Car/0.webp" for n in range(1, 99)]
    assert source.open("test").labels.tolist() == list(range(98, 196))


def test_wrong_layouts_are_named(tmp_path):
    (tmp_path / "001.Car").mkdir()
    says = r"holds no cars_annos\.mat, and 1 folders instead of 196: name the folder of the"
    with pytest.raises(UsageError, match=says):
        Cars196(str(tmp_path)).open("train")
    write_annotations(tmp_path / "cars_annos.mat", CLASSES[:300] % 195 + 1)
    with pytest.raises(UsageError, match="does not have exactly the classes 1 to 196: unpack"):
        Cars196(str(tmp_path)).open("train")
    for damaged in (b"", b"x" * 300):
        (tmp_path / "cars_annos.mat").write_bytes(damaged)
        with pytest.raises(UsageError, match=r"cars_annos\.mat cannot be read .*: unpack the"):
            Cars196(str(tmp_path)).open("train")
