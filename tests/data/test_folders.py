import re
import shutil

import numpy as np
import pytest
import small_config
from PIL import Image

from kd_jax.config import experiment
from kd_jax.data import load_splits
from kd_jax.data.folders import Folder, TinyImageNet
from kd_jax.data.sources import Npz
from kd_jax.errors import UsageError

CLASSES = ("n03", "n01", "n02")  # as in the archive, wnids.txt is not sorted


def save(path, level, size=(64, 64), mode="RGB"):
    """A plain image; its level tells which it is, also after JPEG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, level).convert(mode).save(path)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Four training images of each of three classes, the first of them grey, and six others."""
    root = tmp_path_factory.mktemp("data") / "tiny-imagenet-200"
    for label, name in enumerate(CLASSES):
        for i in range(4):
            path = root / "train" / name / "images" / f"{name}_{i}.JPEG"
            save(path, 60 * label + 10 * i, mode="RGB" if i else "L")
        (root / "train" / name / f"{name}_boxes.txt").write_text("")
    rows = []
    for i in range(6):
        save(root / "val" / "images" / f"val_{i}.JPEG", 100 + i)
        rows.append(f"val_{i}.JPEG\t{CLASSES[i % 3]}\t0\t0\t63\t63\n")
    (root / "val" / "val_annotations.txt").write_text("".join(rows[::-1]))
    (root / "wnids.txt").write_text("\n".join(CLASSES) + "\n")
    return root


@pytest.fixture
def broken(archive, tmp_path):
    return shutil.copytree(archive, tmp_path / "tiny-imagenet-200")


def test_tiny_imagenet_is_read_as_it_is_unpacked(archive):
    train, test = load_splits(TinyImageNet(str(archive)), "train", "test")
    assert train.images.shape == (12, 64, 64, 3)
    assert (train.images.dtype, train.labels.dtype) == (np.uint8, np.int32)
    assert (train.num_classes, len(test)) == (3, 6)
    # each label is the place in wnids.txt, and the classes take turns
    np.testing.assert_array_equal(train.labels, np.arange(12) % 3)
    levels = 60 * train.labels + 10 * (np.arange(12) // 3)
    np.testing.assert_array_equal(train.images, np.broadcast_to(levels, (3, 64, 64, 12)).T)
    np.testing.assert_array_equal(test.images[:, 0, 0, 0], 100 + np.arange(6))
    np.testing.assert_array_equal(test.labels, np.arange(6) % 3)


def test_part_of_a_split_holds_its_share_of_each_class(archive, tmp_path):
    source = TinyImageNet(str(archive))
    parts = [source.load(split) for split in ("train[:50%]", "train[50%:]")]
    assert [np.bincount(part.labels).tolist() for part in parts] == [[2, 2, 2]] * 2
    whole = source.load("train")
    np.testing.assert_array_equal(np.concatenate([p.images for p in parts]), whole.images)
    for name, number in (("a", 2), ("b", 8)):
        for i in range(number):
            save(tmp_path / "train" / name / f"{i}.png", i, (4, 4))
    labels = Folder(str(tmp_path)).load("train").labels
    assert [labels[:5].sum(), labels[5:].sum()] == [4, 4]


def test_tiny_imagenet_as_arrays_is_the_same(archive, tmp_path):
    source = TinyImageNet(str(archive))
    for split in ("train", "test"):
        images = source.load(split)
        np.savez(tmp_path / f"tiny_{split}.npz", images=images.images, labels=images.labels)
    arrays = Npz(str(tmp_path / "tiny_{split}.npz"))
    for split in ("train", "test"):
        assert arrays.load(split).fingerprint() == source.load(split).fingerprint()


def test_many_images_keep_their_order(tmp_path):
    for i in range(600):  # more than threads take at a time
        save(tmp_path / "train" / f"{i % 2}" / f"{i:03}.png", i % 251, (1, 1))
    levels = Folder(str(tmp_path)).load("train[10:]").images[:, 0, 0, 0]
    np.testing.assert_array_equal(levels, np.arange(10, 600) % 251)
    (tmp_path / "train" / "0" / "300.png").write_bytes(b"")
    (tmp_path / "train" / "1" / "599.png").write_bytes(b"")
    with pytest.raises(UsageError, match=r"300\.png is damaged"):
        Folder(str(tmp_path)).load("train")


@pytest.mark.parametrize("split", ["val", "train+test", "all", "all[:50%]", "train[:99]"])
def test_a_bad_split_is_named(archive, split):
    with pytest.raises(UsageError, match=re.escape(repr(split))):
        TinyImageNet(str(archive)).load(split)
    with pytest.raises(UsageError, match="empty"):
        TinyImageNet(str(archive)).load("train[4:4]")


def unlink(name):
    return lambda root: (root / name).unlink()


def remove(name):
    return lambda root: shutil.rmtree(root / name)


def write(name, text):
    return lambda root: (root / name).write_text(text)


def cut(name):
    return lambda root: (root / name).write_bytes((root / name).read_bytes()[:400])


@pytest.mark.parametrize(
    ("spoil", "says"),
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
            r"train/n02/images holds 3 images, that of n03 4: unpack",
        ),
        (cut("train/n01/images/n01_2.JPEG"), r"n01_2.JPEG is damaged or no image: restore"),
        (write("train/n01/images/n01_2.JPEG", "<html>"), r"n01_2.JPEG is damaged or no image"),
        (
            lambda root: save(root / "train/n01/images/n01_2.JPEG", 0, (64, 48)),
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
def test_what_is_wrong_with_the_archive_is_named(broken, spoil, says):
    spoil(broken)
    with pytest.raises(UsageError, match=says) as error:
        load_splits(TinyImageNet(str(broken)), "train", "test")
    assert str(error.value).count(str(broken)) >= 1
    assert "\n" not in str(error.value)


def test_a_folder_a_class(tmp_path, monkeypatch):
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
    assert train.images.shape == (4, 4, 6, 3)
    assert (train.num_classes, test.num_classes) == (3, 3)
    # dog/a stands at 1/4 of its class, the only cat and the only eel at 1/2, dog/b at 3/4
    assert train.labels.tolist() == [1, 0, 2, 1]
    assert train.images[:, 0, 0, 1].tolist() == [2, 3, 0, 1]
    assert test.labels.tolist() == [1]


def test_a_folder_refuses_what_training_cannot_use(tmp_path):
    source = Folder(str(tmp_path))
    with pytest.raises(UsageError, match=r"holds no folder 'train': .* train/CLASS/IMAGE.png"):
        source.load("train")
    (tmp_path / "train").mkdir()
    with pytest.raises(UsageError, match="train holds no folders: put the images of each class"):
        source.load("train")
    save(tmp_path / "train" / "cat" / "0.png", 0, (4, 4))
    save(tmp_path / "test" / "dog" / "0.png", 0, (4, 4))
    with pytest.raises(UsageError, match=r"test/dog is no class, .*train has no such folder"):
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


@pytest.mark.parametrize(("name", "kind"), [("folder", Folder), ("tiny_imagenet", TinyImageNet)])
def test_a_config_names_them(name, kind):
    values = small_config.get_config().to_dict()
    values["data"]["source"] = {"name": name, "path": "images"}
    assert experiment(values).data.source == kind("images")
    values["data"]["source"] = {"name": name}
    with pytest.raises(UsageError, match=r"data\.source\.path is missing"):
        experiment(values)
