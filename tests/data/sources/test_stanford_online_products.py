"""The layout of the archive Stanford_Online_Products, on a made-up tree."""

import pytest
from small_sets import save

from kd_jax.core.errors import UsageError
from kd_jax.data import Fit, load_splits
from kd_jax.data.sources.stanford_online_products import StanfordOnlineProducts

HEADER = "image_id class_id super_class_id path\n"
TRAIN = "1 1 1 bike_final/1_0.JPG\n2 1 1 bike_final/1_1.JPG\n3 2 1 bike_final/2_0.JPG\n"
TEST = "4 3 1 bike_final/3_0.JPG\n5 4 2 sofa_final/4_0.JPG\n"


@pytest.fixture
def root(tmp_path):
    (tmp_path / "Ebay_train.txt").write_text(HEADER + TRAIN)
    (tmp_path / "Ebay_test.txt").write_text(HEADER + TEST)
    for number, line in enumerate((TRAIN + TEST).splitlines()):
        save(tmp_path / line.split()[3], 10 * number, (6 + number, 5))
    return tmp_path


def test_the_official_lists_are_the_splits(root):
    train, test = load_splits(StanfordOnlineProducts(str(root), Fit((4, 4))), "train", "test")
    assert train.labels.tolist() == [0, 1, 0]
    assert train.images[:, 0, 0, 0].tolist() == [0, 20, 10]
    assert test.labels.tolist() == [2, 3]
    assert test.names.tolist() == ["bike_final/3_0.JPG", "sofa_final/4_0.JPG"]
    assert (train.num_classes, test.num_classes) == (2, 4)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (TEST, "does not begin with 'image_id class_id super_class_id path': set data"),
        (HEADER, "does not begin with"),
        (HEADER + TRAIN, "Ebay_test.txt both have the class 1: unpack the archive again"),
        (HEADER + "4 3 1 ../a.JPG\n", "names '../a.JPG', which is not in its folder"),
        (HEADER + "4 3 a.JPG\n", "or a line has fewer than 4 columns"),
    ],
)
def test_wrong_lists_are_named(root, text, says):
    (root / "Ebay_test.txt").write_text(text)
    with pytest.raises(UsageError, match=says):
        StanfordOnlineProducts(str(root)).open("train")
    with pytest.raises(UsageError, match=r"cannot be read .*the folder Stanford_Online_Products"):
        StanfordOnlineProducts(str(root / "sofa_final")).open("train")
