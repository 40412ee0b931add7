"""Names of classes come from the source of the training images."""

import dataclasses

import numpy as np
import pytest
from small_trained import small_trained

from kd_jax.core.errors import UsageError
from kd_jax.data import Fit
from kd_jax.data.sources.digits import Digits
from kd_jax.data.sources.folder import Folder
from kd_jax.data.sources.npz import Npz
from kd_jax.data.sources.tfds import Tfds
from kd_jax.data.sources.tiny_imagenet import TinyImageNet
from kd_jax.pretrained import NetworkInfo
from kd_jax.pretrained.class_names import class_names, described, read_class_names

INFO = NetworkInfo("tiny", {}, 2, (4, 4), "box", (0.5,), (0.25,))


class Own:
    """A user's own source."""

    def class_names(self):
        return ["left", "right"]


def test_sources_know_their_classes(tmp_path):
    for name in ("cat", "ant"):
        (tmp_path / "train" / name).mkdir(parents=True)
    assert class_names(Folder(path=str(tmp_path))) == ("ant", "cat")
    assert class_names(Digits()) == tuple("0123456789")
    assert class_names(Own()) == ("left", "right")
    assert class_names(object()) == ()
    (tmp_path / "wnids.txt").write_text("n02\nn01\n")
    (tmp_path / "words.txt").write_text("n01\tgoldfish, Carassius auratus\nn03\tshark\n")
    assert class_names(TinyImageNet(path=str(tmp_path))) == ("n02", "goldfish, Carassius auratus")
    images = {"images": np.zeros((2, 4, 4), np.uint8), "labels": np.arange(2)}
    np.savez(tmp_path / "train.npz", **images, class_names=np.array(["a", "b"]))
    assert class_names(Npz(str(tmp_path / "{split}.npz"))) == ("a", "b")
    np.savez(tmp_path / "plain.npz", **images)
    assert class_names(Npz(str(tmp_path / "plain.npz"))) == ()


def test_tfds_names_its_classes(cifar100_folder):
    names = class_names(Tfds("cifar100", data_dir=str(cifar100_folder)))
    assert len(names) == 100


def test_the_description_holds_names_and_shape_of_the_images():
    found = described(INFO, Own(), (9, 7, 1))
    assert found.classes == found.class_names == ("left", "right")
    assert found.fit == found.image_fit == Fit((9, 7), gray=True)
    assert NetworkInfo.from_json(dataclasses.asdict(found)) == found
    assert INFO.class_names == ("0", "1")
    assert INFO.image_fit == Fit((4, 4), filter="box", gray=True)
    assert described(INFO, Digits(), (8, 8, 1)).classes == ()  # ten names for two classes
    assert described(INFO, TinyImageNet(path="/nowhere"), (8, 8, 1)).classes == ()
    assert described(INFO, Own(), (8, 8, 2)).fit is None


@pytest.mark.parametrize(
    "change", [{"classes": ["a"]}, {"classes": "ab"}, {"fit": {"size": [4]}}, {"fit": 3}]
)
def test_a_damaged_description_is_one_sentence(change):
    with pytest.raises(UsageError, match=f"has the wrong {next(iter(change))}"):
        NetworkInfo.from_json({**dataclasses.asdict(INFO), **change})


def test_names_from_a_file(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("\n".join(small_trained().info.classes) + "\n")
    assert read_class_names(str(path), 5)[1] == "one"
    with pytest.raises(UsageError, match="has 5 names: name a text file with 3 lines"):
        read_class_names(str(path), 3)
    with pytest.raises(UsageError, match="cannot be read"):
        read_class_names(str(tmp_path), 3)
