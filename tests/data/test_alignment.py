import sys

import numpy as np
import pytest

from kd_jax.core.errors import UsageError
from kd_jax.data.alignment import align, read_landmarks, similarity, template


def rotation(angle):
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def apply(matrix, points):
    return points @ matrix[:, :2].T + matrix[:, 2]


@pytest.mark.parametrize(
    ("angle", "scale", "shift"), [(0, 1, (0, 0)), (0.3, 2.5, (-40, 17)), (-3, 0.01, (1e4, 0))]
)
def test_a_known_similarity_is_found(angle, scale, shift):
    points = template((112, 96))
    known = np.column_stack([scale * rotation(angle), shift])
    np.testing.assert_allclose(
        similarity(points, apply(known, points)), known, rtol=1e-6, atol=1e-9
    )


def test_no_other_similarity_has_a_smaller_error():
    rng = np.random.default_rng(0)
    points, targets = template((112, 112)) + rng.normal(0, 5, (2, 5, 2))
    best = similarity(points, targets)
    error = np.square(apply(best, points) - targets).sum()
    for _ in range(200):
        angle, scale = rng.normal(0, 0.01, 2)
        other = (1 + scale) * rotation(angle) @ best
        other[:, 2] += rng.normal(0, 0.1, 2)
        assert np.square(apply(other, points) - targets).sum() > error


def test_the_result_is_never_a_reflection():
    points = template((112, 96))
    mirrored = points * [-1, 1]
    matrix = similarity(mirrored, points)[:, :2]
    scale = np.sqrt(np.linalg.det(matrix))
    assert scale > 0
    np.testing.assert_allclose(matrix @ matrix.T, scale**2 * np.eye(2), atol=1e-12)
    line = np.linspace([3.0, 4.0], [9.0, 12.0], 5)  # here a reflection would have the same error
    assert np.linalg.det(similarity(line, line * [1, -1])[:, :2]) > 0


@pytest.mark.parametrize(
    "points",
    [
        np.ones((5, 2)),
        np.full((5, 2), np.nan),
        [[np.inf, 0]] * 5,
        np.arange(10).reshape(5, 2) * 1e300,  # the variance would be infinite
        np.arange(10).reshape(5, 2) * 1e-200,  # it would be 0
        np.arange(10).reshape(5, 2) / 10,  # all within one pixel
    ],
)
def test_points_without_a_similarity_are_refused(points):
    with pytest.raises(UsageError, match="landmarks must be numbers, and not all the same"):
        similarity(np.array(points), template((112, 96)))


def test_points_without_a_best_rotation_are_refused():
    square = np.array([[0.0, 0], [9, 0], [9, 9], [0, 9]])
    with pytest.raises(UsageError, match="fit the standard positions equally well"):
        similarity(square, square * [-1, 1])


def test_a_face_outside_of_the_image_is_refused():
    image = np.full((100, 100, 3), 255, np.uint8)
    with pytest.raises(UsageError, match="all landmarks are outside of the image of 100x100"):
        align(image, template((112, 96)) + 300, (112, 96))


def test_templates_are_those_of_sphereface_and_insightface():
    left_eye = template((112, 96))[0]
    np.testing.assert_array_equal(left_eye, [30.2946, 51.6963])
    np.testing.assert_array_equal(template((112, 112)), template((112, 96)) + np.array([8, 0]))
    with pytest.raises(UsageError, match="aligned to 112x96 or 112x112, not to 224x224"):
        template((224, 224))


def pose(angle=0.2, scale=1.4, shift=(60, 30)):
    """The template, rotated, scaled and shifted in a larger image."""
    return apply(np.column_stack([scale * rotation(angle), shift]), template((112, 96)))


@pytest.mark.parametrize("size", [(112, 96), (112, 112)])
def test_landmarks_move_to_the_template(size):
    points = pose()
    for point, target in zip(points, template(size), strict=True):
        y, x = np.mgrid[:256, :256]
        spot = 255 * np.exp(-((x - point[0]) ** 2 + (y - point[1]) ** 2) / 18)
        face = align(np.repeat(spot[..., None], 3, 2).astype(np.uint8), points, size)
        assert face.shape == (*size, 3)
        weights = face[..., 0].astype(float)
        y, x = np.mgrid[: size[0], : size[1]]
        center = np.array([(weights * x).sum(), (weights * y).sum()]) / weights.sum()
        np.testing.assert_allclose(center, target, atol=0.05)


def test_sphereface_is_the_center_of_insightface():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (250, 250, 3), dtype=np.uint8)
    for _ in range(5):
        points = pose(rng.normal(0, 0.3), rng.uniform(0.7, 1.8), rng.uniform(20, 60, 2))
        points += rng.normal(0, 2, (5, 2))
        wide, narrow = (align(image, points, (112, w)).astype(int) for w in (112, 96))
        assert np.abs(wide[:, 8:104] - narrow).max() <= 1


def test_pixels_outside_of_the_image_are_black():
    image = np.full((100, 100, 3), 255, np.uint8)
    face = align(image, template((112, 96)) - [20, 0], (112, 96))  # the face begins left of it
    assert not face[:, :19].any()
    assert face[:100, 21:].min() == 255
    assert not face[101:].any()


def test_shifts_by_whole_pixels_keep_the_pixels():
    image = np.random.default_rng(0).integers(0, 256, (130, 130, 3), dtype=np.uint8)
    face = align(image, template((112, 96)) + np.array([9, 5]), (112, 96))
    np.testing.assert_array_equal(face, image[5:117, 9:105])


def test_without_opencv_the_error_names_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(UsageError, match=r"aligning faces needs OpenCV: run `pip install"):
        align(np.zeros((9, 9, 3), np.uint8), template((112, 96)), (112, 96))


NUMBERS = "1,2,3,4.5,5,6,7,8,-9,1e1"


@pytest.mark.parametrize(
    "text",
    [
        f"a/b c.jpg,{NUMBERS}\nd.png,{NUMBERS}\n",
        f"path,x1,y1,x2,y2,x3,y3,x4,y4,x5,y5\na/b c.jpg,{NUMBERS}\n\nd.png,{NUMBERS}",
        f"a/b c.jpg,{NUMBERS}\r\nd.png, {NUMBERS}\r\n".replace(",", "\t"),
        f"\ufefffile\ta/b c.jpg\na/b c.jpg,{NUMBERS}\nd.png,{NUMBERS}\n",
    ],
)
def test_files_of_landmarks(tmp_path, text):
    path = tmp_path / "landmarks.csv"
    path.write_text(text, encoding="utf-8")
    landmarks = read_landmarks(str(path))
    assert list(landmarks) == ["a/b c.jpg", "d.png"]
    for points in landmarks.values():
        np.testing.assert_array_equal(points, [[1, 2], [3, 4.5], [5, 6], [7, 8], [-9, 10]])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, r"landmarks\.csv cannot be read"),
        ("", "holds no landmarks"),
        ("path,x1,y1\n", "holds no landmarks"),
        ("a.jpg,1,2,3,4\n", "has a line for 'a.jpg' without ten numbers"),
        (f"a.jpg,{NUMBERS},11\n", "has a line for 'a.jpg' without ten numbers"),
        ("a.jpg,1,2,3,4,five,6,7,8,9,10\n", "has a line for 'a.jpg' without ten numbers"),
        (f"a.jpg,{NUMBERS}\nb.jpg,x1\n", "has a line for 'b.jpg' without ten numbers"),
        (f"a.jpg,{NUMBERS}\na.jpg,{NUMBERS}\n", r"names a\.jpg twice"),
        ("a.jpg,nan,2,3,4,5,6,7,8,9,10\n", "gives 'a.jpg' landmarks that are not numbers or"),
        (f"a.jpg,{'9' * 5000},2,3,4,5,6,7,8,9,10\n", "gives 'a.jpg' landmarks that are not"),
        ("a.jpg,1,2,1,2,1,2,1,2,1,2\n", "gives 'a.jpg' landmarks that are not numbers or all"),
    ],
)
def test_wrong_landmarks_are_named(tmp_path, text, says):
    path = tmp_path / "landmarks.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=says) as error:
        read_landmarks(str(path))
    assert str(error.value).startswith(str(path))
