import numpy as np
import pytest

from kd_jax.core.errors import UsageError
from kd_jax.data import load_splits
from kd_jax.data.sources.npz import Npz


def save(path, images, labels):
    np.savez(path, images=images, labels=labels)
    return str(path)


def test_gray_and_color_images(tmp_path):
    rng = np.random.default_rng(0)
    gray = rng.integers(0, 256, (10, 4, 4), dtype=np.uint8)
    save(tmp_path / "gray_train.npz", gray, np.arange(10) % 2)
    save(tmp_path / "gray_test.npz", gray[:4], np.arange(4) % 2)
    train, test = load_splits(Npz(str(tmp_path / "gray_{split}.npz")), "train", "test")
    np.testing.assert_array_equal(train.images[..., 0], gray)
    assert (train.num_classes, len(test), test.labels.dtype) == (2, 4, np.int32)
    one = Npz(save(tmp_path / "one.npz", np.stack([gray] * 3, -1), np.arange(10) % 2))
    train, test = load_splits(one, "train[:80%]", "train[80%:]")
    assert train.images.shape == (8, 4, 4, 3)
    assert len(test) == 2


GOOD = np.zeros((4, 3, 3), np.uint8)


@pytest.mark.parametrize(
    ("images", "labels", "says"),
    [
        (GOOD.astype(np.float32), np.zeros(4, int), "uint8"),
        (GOOD[0], np.zeros(3, int), r"\[N, H, W\]"),
        (GOOD[:0], np.zeros(0, int), "not empty"),
        (GOOD, np.zeros(3, int), r"shape \(4,\), one per image"),
        (GOOD, np.zeros(4), "integers"),
        (GOOD, np.array([0, 1, 2, -1]), "from -1 to 2"),
        (GOOD, np.array([0, 1, 2, 10**9]), "up to 1000000000, but there are only 4 images"),
    ],
)
def test_wrong_arrays_are_refused(tmp_path, images, labels, says):
    path = save(tmp_path / "x.npz", images, labels)
    with pytest.raises(UsageError, match=says):
        Npz(path).load("train")


def test_many_classes_are_accepted_if_their_number_is_given(tmp_path):
    path = save(tmp_path / "x.npz", GOOD, np.array([0, 1, 2, 1000]))
    with pytest.raises(UsageError, match=r"set data\.source\.num_classes"):
        Npz(path).load("train")
    assert Npz(path, num_classes=1001).load("train").num_classes == 1001
    path = save(tmp_path / "y.npz", GOOD, np.array([0, 1, 2, 999]))
    assert Npz(path).load("train").num_classes == 1000


@pytest.mark.parametrize("path", ["a\0b.npz", "~no_such_user/x.npz", ""])
def test_paths_that_do_not_exist_are_refused(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"cannot be read|has a NUL character"):
        Npz(path).load("train")


def test_missing_and_broken_files_are_refused(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        Npz(str(tmp_path / "none.npz")).load("train")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(UsageError, match="cannot be read"):
        Npz(str(tmp_path / "broken.npz")).load("train")
    np.savez(tmp_path / "other.npz", pictures=GOOD)
    with pytest.raises(UsageError, match="`images` and `labels`"):
        Npz(str(tmp_path / "other.npz")).load("train")
