import numpy as np
import pytest
from PIL import Image
from small_sets import save

from kd_jax.core.errors import UsageError
from kd_jax.data import load_splits
from kd_jax.data.sources.folder import Folder


def test_one_folder_per_class(tmp_path, monkeypatch):
    save(tmp_path / "train" / "dog" / "b.PNG", 1, (6, 4))
    save(tmp_path / "train" / "dog" / "a.bmp", 2, (6, 4), "P")
    save(tmp_path / "train" / "cat" / "c.png", 3, (6, 4), "RGBA")
    save(tmp_path / "train" / "eel" / "c.tif", 4, (6, 4), "1")
    save(tmp_path / "valid" / "dog" / "c.webp", 5, (6, 4))
    (tmp_path / "train" / "dog" / "notes.txt").write_text("not an image")
    (tmp_path / "train" / ".cache").mkdir()
    (tmp_path / "train" / "dog" / "._a.bmp").write_bytes(b"")
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    train, test = load_splits(Folder(f"~/{tmp_path.name}"), "train", "valid")
    assert train.images.shape == (4, 6, 4, 3)
    assert (train.num_classes, test.num_classes) == (3, 3)
    # dog/a is at 1/4 of its class, the only cat and the only eel at 1/2, dog/b at 3/4
    assert train.labels.tolist() == [1, 0, 2, 1]
    assert train.images[:, 0, 0, 1].tolist() == [2, 3, 0, 1]
    assert test.labels.tolist() == [1]


def test_classes_are_spread_evenly_over_a_split(tmp_path):
    for name, number in (("a", 2), ("b", 8)):
        for i in range(number):
            save(tmp_path / "train" / name / f"{i}.png", i)
    labels = Folder(str(tmp_path)).load("train").labels
    assert [labels[:5].sum(), labels[5:].sum()] == [4, 4]


def test_many_images_keep_their_order(tmp_path):
    for i in range(600):  # more than a thread decodes at a time
        save(tmp_path / "train" / f"{i % 2}" / f"{i:03}.png", i % 251, (1, 1))
    levels = Folder(str(tmp_path)).load("train[10:]").images[:, 0, 0, 0]
    np.testing.assert_array_equal(levels, np.arange(10, 600) % 251)
    (tmp_path / "train" / "0" / "300.png").write_bytes(b"")
    (tmp_path / "train" / "1" / "599.png").write_bytes(b"")
    with pytest.raises(UsageError, match=r"300\.png is damaged"):
        Folder(str(tmp_path)).load("train")


def test_wrong_folders_and_images_are_named(tmp_path):
    source = Folder(str(tmp_path))
    with pytest.raises(UsageError, match=r"holds no folder 'train': .* train/CLASS/IMAGE.png"):
        source.load("train")
    (tmp_path / "train").mkdir()
    with pytest.raises(UsageError, match="train holds no folders: put the images of each class"):
        source.load("train")
    save(tmp_path / "train" / "cat" / "0.png", 0, (4, 4))
    save(tmp_path / "test" / "dog" / "0.png", 0, (4, 4))
    with pytest.raises(UsageError, match=r"test/dog is not a class, .*train has no such folder"):
        load_splits(source, "train", "test")
    with pytest.raises(UsageError, match=r"'validation' cannot be read: .*\['test', 'train'\]"):
        source.load("validation")
    (tmp_path / "train" / "dog").mkdir()
    with pytest.raises(UsageError, match="train/dog holds no images"):
        source.load("train")
    (tmp_path / "train" / "dog" / "0.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(UsageError, match=r"dog/0.png cannot be read \(No such file or directory\)"):
        source.load("train")
    (tmp_path / "train" / "dog" / "0.png").unlink()
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "train" / "dog" / "0.png")
    with pytest.raises(UsageError, match=r"dog/0.png has pixels of more than 8 bits \(mode 'I;16'"):
        source.load("train")
    with pytest.raises(UsageError, match="nothing cannot be read"):
        Folder(str(tmp_path / "nothing")).load("train")
