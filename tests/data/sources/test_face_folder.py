import pickle

import numpy as np
import pytest
from PIL import Image
from small_sets import save

from kd_jax.core.errors import UsageError
from kd_jax.data import load_splits
from kd_jax.data.sources.face_folder import FaceFolder

SIZES = {"Cy": 3, "Al_Gore": 5, "Bo": 1, "Di": 2}


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """Image i of identity k, in sorted order, has the level 20 k + i."""
    root = tmp_path_factory.mktemp("faces")
    for k, name in enumerate(sorted(SIZES)):
        for i in range(SIZES[name]):
            save(root / name / f"{name}_{i + 1:04}.png", 20 * k + i)
    (root / "pairs.txt").write_text("no image")
    return root


def levels(images):
    return images.images[:, 0, 0, 0].tolist()


def test_the_last_images_of_each_identity_are_the_test(faces):
    train, test = load_splits(FaceFolder(str(faces)), "train", "test")
    # Bo has one image only; Al_Gore, Cy and Di become the classes 0, 1 and 2
    assert train.num_classes == test.num_classes == 3
    assert train.image_shape == (12, 10, 3)
    assert levels(test) == [4, 42, 61]
    assert test.labels.tolist() == [0, 1, 2]
    assert sorted(levels(train)) == [0, 1, 2, 3, 40, 41, 60]
    np.testing.assert_array_equal(np.array(levels(train)) // 20, np.array([0, 2, 3])[train.labels])
    # images are at (i + 1/2) / n of their class: 1/8, 1/4, 3/8, 1/2, 5/8, 3/4, 7/8
    assert train.labels.tolist() == [0, 1, 0, 2, 0, 1, 0]


@pytest.mark.parametrize(
    ("options", "train", "test"),
    [
        ({"min_images": 3}, [0, 1, 2, 3, 40, 41], [4, 42]),
        ({"min_images": 4, "test_images": 3}, [0, 1], [2, 3, 4]),
        ({"min_images": 3, "test_images": 2}, [0, 1, 2, 40], [3, 4, 41, 42]),
    ],
)
def test_smallest_number_of_images_and_number_of_test_images(faces, options, train, test):
    source = FaceFolder(str(faces), **options)
    assert sorted(levels(source.load("train"))) == train
    assert sorted(levels(source.load("test"))) == test


@pytest.fixture(scope="module")
def closed_set(tmp_path_factory):
    """Image i of identity k has the level 12 k + i; the identities have 2 to 9 images."""
    root = tmp_path_factory.mktemp("closed_set")
    for k in range(8):
        for i in range(k + 2):
            save(root / f"Person_{k}" / f"{i}.png", 12 * k + i)
    return root


def identities_of(images):
    """Returns the levels of the images by identity, as `closed_set` numbers the identities."""
    found = {}
    for level in sorted(levels(images)):
        found.setdefault(level // 12, []).append(level)
    return found


def test_a_closed_set_is_divided_at_random_in_each_identity(closed_set):
    """HORKD, section 4.2, and EKD, section IV-A: 180 identities of UCCS, divided by 4:1."""
    options = {"min_images": 4, "identities": 4, "test_fraction": 0.2}
    source = FaceFolder(str(closed_set), **options, seed=1)
    train, test = load_splits(source, "train", "test")
    assert train.num_classes == test.num_classes == 4
    known, unknown = identities_of(train), identities_of(test)
    assert known.keys() == unknown.keys()
    assert min(known) >= 2  # Person_2 is the first with four images
    for k, part in unknown.items():
        assert len(part) == max(1, round(0.2 * (k + 2)))
        assert sorted(part + known[k]) == [12 * k + i for i in range(k + 2)]
    np.testing.assert_array_equal(
        np.array(sorted(known))[test.labels], np.array(levels(test)) // 12
    )
    again = FaceFolder(str(closed_set), **options, seed=1).load("test")
    np.testing.assert_array_equal(again.images, test.images)
    other = FaceFolder(str(closed_set), **options, seed=2)
    assert identities_of(other.load("test")) != unknown


def test_the_division_of_an_identity_does_not_depend_on_the_others(closed_set):
    def tests(number):
        source = FaceFolder(str(closed_set), identities=number, test_fraction=0.4)
        return identities_of(source.load("test"))

    few, many, every = tests(3), tests(6), tests(None)
    assert few.items() <= many.items() <= every.items()
    assert [len(found) for found in (few, many, every)] == [3, 6, 8]


def test_more_identities_than_there_are_is_an_error(closed_set):
    source = FaceFolder(str(closed_set), min_images=4, identities=7)
    says = r"holds 6 chosen identities with 4 images or more, but identities = 7: reduce"
    with pytest.raises(UsageError, match=says):
        source.open("train")


def test_without_test_images_all_are_training_images(faces):
    source = FaceFolder(str(faces), min_images=1, test_images=0)
    assert sorted(np.bincount(source.open("train").labels)) == sorted(SIZES.values())
    with pytest.raises(UsageError, match="split 'test' is empty"):
        source.open("test")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"test_images": 2}, r"test_images 2 must be 0 or more, and less than min_images 2"),
        ({"test_images": -1}, "test_images -1 must be 0 or more"),
        ({"test_fraction": 1.0}, "test_fraction must be 0 or more, and less than 1"),
        ({"test_fraction": 0.2, "test_images": 0}, "test_fraction replaces test_images"),
        ({"test_fraction": 0.2, "test_images": 1, "min_images": 1}, "less than min_images"),
        ({"identities": 0}, "identities must be 1 or more"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"size": (112,)}, r"size \(112,\) must be a height and a width"),
        ({"size": (112, 0)}, "must be a height and a width"),
    ],
)
def test_impossible_options_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        FaceFolder("faces", **options)


def test_the_center_of_each_image_is_cut_out(tmp_path):
    columns = np.broadcast_to(np.arange(112, dtype=np.uint8)[:, None], (112, 112, 3))
    for i in range(2):
        path = tmp_path / "A" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.ascontiguousarray(columns)).save(path)
    image = FaceFolder(str(tmp_path), size=(112, 96)).load("train").images[0]
    assert image.shape == (112, 96, 3)
    np.testing.assert_array_equal(image[0, :, 0], np.arange(8, 104))
    with pytest.raises(UsageError, match=r"A/0.png has height and width \(112, 112\)"):
        FaceFolder(str(tmp_path), size=(128, 128)).load("train")


@pytest.mark.parametrize(
    "text",
    [
        "Di\nCy\n",
        "2\nCy\t3\nDi\t2\n",  # as in peopleDevTrain.txt
        "2\n1\nCy\t3\n1\nDi\t2\n",  # as in people.txt, with folds
        "Cy,actor\r\nDi,singer, and more\r\n\r\n",
        "\ufeffCy\nDi\n",
    ],
)
def test_lists_of_identities(faces, tmp_path, text):
    names = tmp_path / "names.txt"
    names.write_text(text, encoding="utf-8")
    assert levels(FaceFolder(str(faces), include=str(names)).load("test")) == [42, 61]
    assert levels(FaceFolder(str(faces), exclude_ids=str(names)).load("test")) == [4]


def test_both_lists(faces, tmp_path):
    include, exclude = tmp_path / "include.txt", tmp_path / "exclude.txt"
    include.write_text("Cy\nDi\n")
    exclude.write_text("Di\nNobody\n")  # a list for all of VGGFace2 names more than a part holds
    source = FaceFolder(str(faces), include=str(include), exclude_ids=str(exclude))
    assert levels(source.load("test")) == [42]


@pytest.mark.parametrize(
    ("option", "text", "says"),
    [
        ("include", "Cy\nEd\nFay\n", r"names 2 identities that .* does not hold, first 'Ed':"),
        ("include", "Bo\n", r"holds no chosen identity with 2 images or more"),
        ("include", "\n", r"list.txt names no identities"),
        ("include", "3\nCy\t3\nDi\t2\n", r"has counts for 3 identities, but names 2"),
        ("include", "2\n2\nCy\t3\n1\nDi\t2\n", r"has counts for 3 identities, but names 2"),
        ("exclude_ids", "Ed\n", r"names no identity of .*, whose first is 'Al_Gore'"),
        ("exclude_ids", "Al_Gore\nCy\nDi\n", r"holds no chosen identity with 2 images or more"),
        ("exclude_ids", None, r"list.txt cannot be read"),
    ],
)
def test_wrong_lists_are_named(faces, tmp_path, option, text, says):
    path = tmp_path / "list.txt"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=says) as error:
        FaceFolder(str(faces), **{option: str(path)}).open("train")
    assert "\n" not in str(error.value)


def test_folders_without_faces_are_named(tmp_path):
    with pytest.raises(UsageError, match="nothing cannot be read"):
        FaceFolder(str(tmp_path / "nothing")).open("train")
    with pytest.raises(UsageError, match=r"holds no folders with images: .* IDENTITY/IMAGE.jpg"):
        FaceFolder(str(tmp_path)).open("train")
    with pytest.raises(UsageError, match="'val' cannot be read"):
        FaceFolder(str(tmp_path)).open("val")


def test_open_images_can_be_sent_to_other_processes(faces):
    images = FaceFolder(str(faces), size=(8, 8)).open("train")
    copy = pickle.loads(pickle.dumps(images))
    np.testing.assert_array_equal(copy.read(1), images.read(1))
