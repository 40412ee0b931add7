import numpy as np
import pytest
from PIL import Image

from kd_jax.core.errors import UsageError
from kd_jax.data.sources.face_folder import FaceFolder
from kd_jax.evaluation.faces import random_gallery, read_gallery, read_scface


def save(path, level, size=(6, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (level,) * 3).save(path)


PERSONS = (2, 7, 130)


@pytest.fixture
def scface(tmp_path):
    """The image of camera c at distance d of the k-th person has the level 50 k + 10 d + c."""
    for k, person in enumerate(PERSONS):
        save(tmp_path / "mugshots" / f"{person:03}_frontal.JPG", 50 * k)
        for camera in range(1, 8):  # 6 and 7 are infrared
            for distance in (1, 2, 3):
                level = 50 * k + 10 * distance + camera
                name = f"{person:03}_cam{camera}_{distance}.png"
                save(tmp_path / f"distance_{distance}" / f"cam_{camera}" / name, level)
        save(tmp_path / "mugshots" / f"{person:03}_cam8.png", 0)
        save(tmp_path / "rotated" / f"{person:03}_L1.png", 0)
    return tmp_path


def test_scface(scface):
    faces = read_scface(str(scface), identities=PERSONS)
    assert faces.name == "scface"
    assert faces.gallery.images[:, 0, 0, 0].tolist() == [0, 50, 100]
    assert faces.gallery.labels.tolist() == [0, 1, 2]
    assert list(faces.probes) == ["4.2m", "2.6m", "1.0m"]
    for distance, probes in enumerate(faces.probes.values(), 1):
        assert probes.labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5
        expected = 50 * probes.labels + 10 * distance + np.tile(np.arange(1, 6), 3)
        np.testing.assert_array_equal(probes.images[:, 0, 0, 0], expected)
        assert probes.num_classes == 3
    part = read_scface(str(scface), (2, 4), identities=[130])
    assert part.gallery.images.shape == (1, 2, 4, 3)
    assert [len(probes) for probes in part.probes.values()] == [5, 5, 5]


def test_scface_must_be_complete(scface):
    says = r"lacks 2032 of 2080 images of SCface, first 001_frontal\.jpg: add them, or choose"
    with pytest.raises(UsageError, match=says):
        read_scface(str(scface))
    (scface / "distance_2" / "cam_4" / "007_cam4_2.png").unlink()
    with pytest.raises(UsageError, match=r"lacks 1 of 48 images of SCface, first 007_cam4_2\.jpg"):
        read_scface(str(scface), identities=PERSONS)
    assert len(read_scface(str(scface), identities=(2, 130)).gallery) == 2
    save(scface / "cropped" / "002_frontal.png", 0)
    with pytest.raises(
        UsageError, match=r"holds 002_frontal twice, as .* and .*: remove one of them"
    ):
        read_scface(str(scface), identities=(2, 130))


def test_scface_has_130_identities(tmp_path):
    for identities in ((), (0,), (131,), (2, 2)):
        with pytest.raises(UsageError, match="must be different numbers, 1 to 130"):
            read_scface(str(tmp_path), identities=identities)


def test_scface_must_have_one_size(scface):
    save(scface / "mugshots" / "007_frontal.JPG", 0, (8, 8))
    with pytest.raises(UsageError, match=r"007_frontal\.JPG has height and width \(8, 8\)"):
        read_scface(str(scface), identities=PERSONS)


LABELS = np.random.default_rng(5).integers(0, 40, 300)


def test_a_random_gallery_divides_the_images_of_the_chosen_identities():
    gallery, probes = random_gallery(LABELS, 12, 2, seed=3)
    chosen = np.unique(LABELS[gallery])
    assert len(chosen) == 12
    np.testing.assert_array_equal(np.bincount(LABELS[gallery])[chosen], 2)
    both = np.sort(np.concatenate([gallery, probes]))
    np.testing.assert_array_equal(both, np.flatnonzero(np.isin(LABELS, chosen)))
    assert np.all(np.diff(gallery) > 0)
    assert np.all(np.diff(probes) > 0)


def test_a_random_gallery_depends_on_the_seed_and_grows_with_the_identities():
    some = set(random_gallery(LABELS, 5, seed=1)[0])
    assert some < set(random_gallery(LABELS, 20, seed=1)[0])
    assert some != set(random_gallery(LABELS, 5, seed=2)[0])
    labels = np.arange(60) % 20
    # This choice must never change.
    assert random_gallery(labels, 4, seed=0)[0].tolist() == [33, 36, 51, 58]


def test_a_random_gallery_leaves_out_identities_without_a_probe():
    labels = np.array([0, 1, 1, 3, 3, 3])
    gallery, probes = random_gallery(labels, 2)
    assert sorted(labels[gallery]) == [1, 3]
    assert sorted(labels[probes]) == [1, 3, 3]
    for arguments in ((3,), (2, 2), (None, 3)):
        with pytest.raises(UsageError, match="gallery images and a probe are asked for, but"):
            random_gallery(labels, *arguments)
    for arguments in ((0,), (1, 0), (None, -1)):
        with pytest.raises(UsageError, match="are impossible: choose 1 or more of both"):
            random_gallery(labels, *arguments)


def test_a_gallery_of_a_folder(tmp_path):
    for k, images in enumerate((3, 1, 2)):
        for i in range(images):
            save(tmp_path / f"person_{k}" / f"{i}.png", 50 * k + i)
    faces = read_gallery(str(tmp_path))  # person 1 has no probe
    assert faces.name == tmp_path.name
    assert sorted(faces.gallery.images[:, 0, 0, 0] // 50) == [0, 2]
    assert sorted(faces.probes["probes"].images[:, 0, 0, 0] // 50) == [0, 0, 2]
    assert set(faces.probes["probes"].labels) == set(faces.gallery.labels)
    assert read_gallery(str(tmp_path), min_images=3).gallery.num_classes == 1
    faces = read_gallery(str(tmp_path), (2, 4), 1, gallery_images=2)
    assert faces.gallery.images.shape == (2, 2, 4, 3)
    assert faces.probes["probes"].images[:, 0, 0, 0] // 50 == [0]


def test_a_random_fraction_of_each_identity_as_in_the_source(tmp_path):
    """HORKD, section 4.2: the images of each identity are divided by about 4:1."""
    for k, images in enumerate((10, 1, 5, 4)):
        for i in range(images):
            save(tmp_path / f"person_{k}" / f"{i}.png", 20 * k + i)
    faces = read_gallery(str(tmp_path), None, 2, seed=1, probe_fraction=0.2, min_images=5)
    source = FaceFolder(str(tmp_path), min_images=5, identities=2, test_fraction=0.2, seed=1)
    np.testing.assert_array_equal(faces.gallery.images, source.load("train").images)
    np.testing.assert_array_equal(faces.probes["probes"].labels, source.load("test").labels)
    assert 3 * len(faces.probes["probes"]) <= len(faces.gallery) <= 5 * len(faces.probes["probes"])
