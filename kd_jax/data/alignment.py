"""Faces turned, scaled and shifted so that eyes, nose and mouth come to lie where all have them."""

import pathlib
import re

import numpy as np

from kd_jax.data.resolution import opencv
from kd_jax.errors import UsageError

_TEMPLATE = np.array(
    [
        [30.2946, 51.6963],  # left eye, as seen in the image
        [65.5318, 51.5014],  # right eye
        [48.0252, 71.7366],  # nose
        [33.5493, 92.3655],  # left corner of the mouth
        [62.7299, 92.2041],  # right corner
    ]
)
"""x and y in SphereFace's image of height 112 and width 96."""

SIZES = {(112, 96): 0, (112, 112): 8}
"""Height and width of what can be made, and how many columns it has left of SphereFace's."""


def template(size: tuple[int, int]) -> np.ndarray:
    """Where the five landmarks belong in an image of a size, x and y, float64 `[5, 2]`."""
    if size not in SIZES:
        known = " or ".join(f"{height}x{width}" for height, width in SIZES)
        raise UsageError(f"faces are aligned to {known}, not to {size[0]}x{size[1]}.")
    return _TEMPLATE + np.array([SIZES[size], 0])


def similarity(points: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The rotation, scale and shift that bring points nearest to targets in the least squares.

    Umeyama, Least-squares estimation of transformation parameters between two point patterns, 1991,
    eq. 40 to 42. It is never a reflection, not even where one would be nearer.

    Args:
        points: float `[N, 2]`.
        targets: float `[N, 2]`.

    Returns:
        The matrix M, float64 `[2, 3]`: a point p goes to `M @ [*p, 1]`.

    Raises:
        UsageError: if the points are not finite or all the same.
    """
    if not _make_a_face(points):
        raise UsageError("landmarks must be numbers, and not all the same point: mend them.")
    middle, target_middle = points.mean(0), targets.mean(0)
    centred = points - middle
    variance = np.square(centred).sum() / len(points)
    left, singular, right = np.linalg.svd((targets - target_middle).T @ centred / len(points))
    signs = np.array([1, np.sign(np.linalg.det(left) * np.linalg.det(right))])
    linear = (singular @ signs / variance) * (left * signs) @ right
    return np.column_stack([linear, target_middle - linear @ middle])


def _make_a_face(points: np.ndarray) -> bool:
    return bool(np.isfinite(points).all() and np.ptp(points, axis=0).any())


def align(image: np.ndarray, landmarks: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Aligns a face: a bilinear warp, black where the image has no pixels.

    An aligned face of 112x96 is the columns 8 to 103 of that of 112x112, to one grey level.

    Args:
        image: uint8 `[H, W, 3]`.
        landmarks: x and y of left eye, right eye, nose, left and right corner of the mouth, as
            seen in the image, with 0 in the middle of the first pixel; float `[5, 2]`.
        size: height and width of the result, one of `SIZES`.

    Returns:
        uint8 `[*size, 3]`.

    Raises:
        UsageError: if the landmarks or the size cannot be used, or OpenCV is not installed.
    """
    cv2 = opencv("aligning faces")
    matrix = similarity(landmarks, template(size))
    return cv2.warpAffine(image, matrix, size[::-1], flags=cv2.INTER_LINEAR, borderValue=0)


def read_landmarks(path: str) -> dict[str, np.ndarray]:
    """Reads the landmarks of images, one a line: `relative/path,x1,y1,...,x5,y5`.

    The columns are separated by commas or tabs, and the first line may name them. The points are
    in the order that `align` wants.

    Returns:
        For every path float64 `[5, 2]`, in the order of the file.

    Raises:
        UsageError: if the file cannot be read, or a line has not ten numbers that make a face.
    """
    try:
        text = pathlib.Path(path).expanduser().read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({error}): name a file of landmarks.") from error
    rows = [re.split("[\t,]", line.strip()) for line in text.splitlines() if line.strip()]
    found: dict[str, np.ndarray] = {}
    for i, (name, *cells) in enumerate(rows):
        try:
            points = np.array(cells, float).reshape(5, 2)
        except ValueError as error:
            if i == 0 and not any(re.match(r"\s*[-+.\d]", cell) for cell in cells):
                continue  # the names of the columns
            raise UsageError(
                f"{path} has a line for {name!r} without ten numbers x1, y1 to x5, y5: mend it."
            ) from error
        if name in found:
            raise UsageError(f"{path} names {name} twice: take one line out.")
        if not _make_a_face(points):
            raise UsageError(
                f"{path} gives {name!r} landmarks that are no numbers or all the same: mend it."
            )
        found[name] = points
    if not found:
        raise UsageError(f"{path} holds no landmarks: write a line for each image.")
    return found
