import pytest
from small_sets import save

from kd_jax.core.errors import UsageError
from kd_jax.data import Fit, has_new_classes, load_splits
from kd_jax.data.sources.class_folders import ClassFolders


def test_the_first_folders_are_for_training_and_the_others_for_the_test(tmp_path):
    for level, name in enumerate(("d", "a", "c", "b")):
        for i in range(2):
            save(tmp_path / name / f"{i}.png", 10 * level + i, (5 + level, 4))
    source = ClassFolders(str(tmp_path), Fit((4, 4)), train_classes=3)
    train, test = load_splits(source, "train", "test")
    assert train.names.tolist() == [f"{name}/{i}.png" for i in range(2) for name in "abc"]
    assert train.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert train.images[:, 0, 0, 0].tolist() == [10, 30, 20, 11, 31, 21]
    assert test.labels.tolist() == [3, 3]
    assert (train.num_classes, test.num_classes) == (3, 4)
    assert has_new_classes(test, train)
    part = source.open("train[:50%]")
    assert part.labels.tolist() == [0, 1, 2]
    assert part.num_classes == 3


def test_wrong_folders_are_named(tmp_path):
    with pytest.raises(ValueError, match="train_classes must be 1 or more, not 0"):
        ClassFolders(str(tmp_path), train_classes=0)
    for name in "ab":
        save(tmp_path / name / "0.png", 1)
    says = "holds 2 folders of classes, so that none is left for the test after train_classes = 2"
    with pytest.raises(UsageError, match=says):
        ClassFolders(str(tmp_path), train_classes=2).load("train")
    (tmp_path / "c").mkdir()
    with pytest.raises(UsageError, match="c holds no images: add images, or remove the folder"):
        ClassFolders(str(tmp_path), train_classes=2).load("train")
    with pytest.raises(UsageError, match=r"'valid' cannot be read: .*\['test', 'train'\]"):
        ClassFolders(str(tmp_path), train_classes=2).load("valid")
