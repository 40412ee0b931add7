import shutil

import numpy as np
import pytest
from small_sets import save

from kd_jax.core.errors import UsageError
from kd_jax.data import Fit, load_splits
from kd_jax.data.sources.npz import Npz
from kd_jax.data.sources.tiny_imagenet import TinyImageNet

CLASSES = ("n03", "n01", "n02")  # as in the archive, wnids.txt is not sorted


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Four training images of each of three classes, the first of them gray; six test images."""
    root = tmp_path_factory.mktemp("data") / "tiny-imagenet-200"
    for label, name in enumerate(CLASSES):
        for i in range(4):
            path = root / "train" / name / "images" / f"{name}_{i}.JPEG"
            save(path, 60 * label + 10 * i, (64, 64), mode="RGB" if i else "L")
        (root / "train" / name / f"{name}_boxes.txt").write_text("")
    rows = []
    for i in range(6):
        save(root / "val" / "images" / f"val_{i}.JPEG", 100 + i, (64, 64))
        rows.append(f"val_{i}.JPEG\t{CLASSES[i % 3]}\t0\t0\t63\t63\n")
    (root / "val" / "val_annotations.txt").write_text("".join(rows[::-1]))
    (root / "wnids.txt").write_text("\n".join(CLASSES) + "\n")
    return root


@pytest.fixture
def copy(archive, tmp_path):
    return shutil.copytree(archive, tmp_path / "tiny-imagenet-200")


def test_the_unpacked_archive_is_read(archive):
    train, test = load_splits(TinyImageNet(str(archive)), "train", "test")
    assert train.images.shape == (12, 64, 64, 3)
    assert (train.images.dtype, train.labels.dtype) == (np.uint8, np.int32)
    assert (train.num_classes, len(test)) == (3, 6)
    # each label is the line in wnids.txt, and the classes take turns
    np.testing.assert_array_equal(train.labels, np.arange(12) % 3)
    levels = 60 * train.labels + 10 * (np.arange(12) // 3)
    np.testing.assert_array_equal(train.images, np.broadcast_to(levels, (3, 64, 64, 12)).T)
    np.testing.assert_array_equal(test.images[:, 0, 0, 0], 100 + np.arange(6))
    np.testing.assert_array_equal(test.labels, np.arange(6) % 3)


def test_images_can_be_enlarged(archive):
    images = TinyImageNet(str(archive), Fit((224, 224))).open("test")
    assert images.image_shape == (224, 224, 3)
    assert (images.take(np.arange(6)) == 100 + np.arange(6)[:, None, None, None]).all()


def test_parts_of_a_split_are_complete_and_have_the_same_classes(archive):
    source = TinyImageNet(str(archive))
    parts = [source.load(split) for split in ("train[:50%]", "train[50%:]")]
    assert [np.bincount(part.labels).tolist() for part in parts] == [[2, 2, 2]] * 2
    whole = source.load("train")
    np.testing.assert_array_equal(np.concatenate([p.images for p in parts]), whole.images)


def test_the_same_images_as_arrays_have_the_same_fingerprint(archive, tmp_path):
    source = TinyImageNet(str(archive))
    for split in ("train", "test"):
        images = source.load(split)
        np.savez(tmp_path / f"tiny_{split}.npz", images=images.images, labels=images.labels)
    arrays = Npz(str(tmp_path / "tiny_{split}.npz"))
    for split in ("train", "test"):
        assert arrays.load(split).fingerprint() == source.load(split).fingerprint()


def unlink(name):
    return lambda root: (root / name).unlink()


def remove(name):
    return lambda root: shutil.rmtree(root / name)


def write(name, text):
    return lambda root: (root / name).write_text(text)


def cut(name):
    return lambda root: (root / name).write_bytes((root / name).read_bytes()[:400])


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (unlink("wnids.txt"), r"wnids.txt cannot be read .* the folder tiny-imagenet-200 of the"),
        (write("wnids.txt", "\n"), r"wnids.txt is damaged, empty or names something twice"),
        (write("wnids.txt", "n01\nn02\nn03\nn02\n"), r"wnids.txt is damaged, .* twice"),
        (write("wnids.txt", "n01\nn03\n"), r"train/n02 is not named in .*wnids.txt"),
        (remove("train"), r"train cannot be read \(No such file"),
        (remove("train/n02"), r"train/n02 is missing, but .*wnids.txt names it: unpack"),
        (remove("train/n02/images"), r"train/n02/images cannot be read"),
        (
            lambda root: [p.unlink() for p in root.glob("train/n02/images/*")],
            "train/n02/images holds no images",
        ),
        (
            unlink("train/n02/images/n02_1.JPEG"),
            r"train/n02/images holds 3 images, but that of n03 4: unpack",
        ),
        (cut("train/n01/images/n01_2.JPEG"), r"n01_2.JPEG is damaged or no image: restore"),
        (write("train/n01/images/n01_2.JPEG", "<html>"), r"n01_2.JPEG is damaged or no image"),
        (
            lambda root: save(root / "train/n01/images/n01_2.JPEG", 0, (48, 64)),
            r"n01_2.JPEG has height and width \(48, 64\), but .*n03_0.JPEG \(64, 64\): bring",
        ),
        (unlink("val/val_annotations.txt"), "val_annotations.txt cannot be read"),
        (write("val/val_annotations.txt", "val_0.JPEG\n"), "val_annotations.txt is damaged"),
        (
            write("val/val_annotations.txt", "val_0.JPEG\tn07\t0\n"),
            r"val_annotations.txt gives val_0.JPEG the class n07, which .*wnids.txt does not name",
        ),
        (
            write("val/val_annotations.txt", "val_0.JPEG\tn01\t0\n"),
            r"val/images/val_1.JPEG is not named in .*val_annotations.txt: unpack",
        ),
        (unlink("val/images/val_3.JPEG"), r"val_3.JPEG is missing, but .*val_annotations.txt"),
        (remove("val/images"), r"val/images cannot be read"),
    ],
)
def test_damage_of_the_archive_is_named(copy, damage, says):
    damage(copy)
    with pytest.raises(UsageError, match=says) as error:
        load_splits(TinyImageNet(str(copy)), "train", "test")
    assert str(error.value).count(str(copy)) >= 1
    assert "\n" not in str(error.value)
