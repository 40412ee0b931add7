import pickle

import numpy as np
import pytest
from small_sets import PACK_IMAGES, insightface, record, write_pack

from kd_jax.core.errors import UsageError
from kd_jax.data import load_splits
from kd_jax.data.sources.face_records import FaceRecords


def test_labels_become_classes_and_last_images_the_test(tmp_path):
    train, test = load_splits(FaceRecords(write_pack(tmp_path, insightface())), "train", "test")
    # the numbers 2 and 7 become the classes 0 and 1; 30 has one image only
    assert (train.num_classes, train.image_shape) == (2, (6, 4, 3))
    assert train.images[:, 0, 0, 0].tolist() == [1, 21, 11]
    assert train.labels.tolist() == [1, 0, 1]
    assert test.images[:, 0, 0, 0].tolist() == [41, 31]
    assert test.labels.tolist() == [0, 1]


def test_identities_are_chosen_by_their_numbers(tmp_path):
    folder = write_pack(tmp_path, insightface())
    names = tmp_path / "names.txt"
    names.write_text("7\n")
    images = FaceRecords(folder, exclude_ids=str(names), size=(4, 2)).open("train")
    assert (images.num_classes, images.keys.tolist(), images.image_shape) == (1, [3], (4, 2, 3))
    assert FaceRecords(folder, include=str(names)).open("train").keys.tolist() == [1, 2]
    names.write_text("8\n")
    with pytest.raises(UsageError, match="does not hold, first '8'"):
        FaceRecords(folder, include=str(names)).open("train")


def test_open_images_can_be_sent_to_other_processes(tmp_path):
    images = FaceRecords(write_pack(tmp_path, insightface())).open("train")
    images.read(0)
    copy = pickle.loads(pickle.dumps(images))
    np.testing.assert_array_equal(copy.read(1), images.read(1))
    assert copy.fingerprint() == images.fingerprint()


def test_a_damaged_image_is_named(tmp_path):
    contents = [record(1, PACK_IMAGES[0]), record(1, PACK_IMAGES[1][:40]), record(1, b"")]
    source = FaceRecords(write_pack(tmp_path, contents), test_images=0, min_images=1)
    with pytest.raises(UsageError, match=r"record 1 of .*train\.rec is damaged or no image"):
        source.load("train")
