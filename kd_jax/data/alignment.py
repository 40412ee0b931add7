"""Alignment of faces: moves eyes, nose and mouth to standard positions by their landmarks."""

import re

import numpy as np

from kd_jax.core.errors import UsageError, reason
from kd_jax.data.local_files import read_text
from kd_jax.data.preprocessing.resolution import opencv

_TEMPLATE = np.array(
    [
        [30.2946, 51.6963],  # left eye, on the left side of the image
        [65.5318, 51.5014],  # right eye
        [48.0252, 71.7366],  # nose
        [33.5493, 92.3655],  # left corner of the mouth
        [62.7299, 92.2041],  # right corner
    ]
)
"""x and y of the landmarks in SphereFace's image of height 112 and width 96."""

_FARTHEST = 1e6  # pixels; OpenCV's coordinates are exact up to there
_SMALLEST = 1e-9

SIZES = {(112, 96): 0, (112, 112): 8}
"""Possible heights and widths, and the number of columns to the left of SphereFace's image."""


def template(size: tuple[int, int]) -> np.ndarray:
    """Returns the standard positions of the five landmarks.

    Args:
        size: height and width of the aligned image, one of `SIZES`.

    Returns:
        x and y of each landmark, float64 `[5, 2]`.

    Raises:
        UsageError: if there are none for this size.
    """
    if size not in SIZES:
        known = " or ".join(f"{height}x{width}" for height, width in SIZES)
        raise UsageError(
            f"faces are aligned to {known}, not to {size[0]}x{size[1]}: choose such a size."
        )
    return _TEMPLATE + np.array([SIZES[size], 0])


def similarity(points: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Returns the rotation, scale and shift from points to targets with the least squared error.

    Umeyama, Least-squares estimation of transformation parameters between two point patterns, 1991,
    eq. 40 to 42. The result is never a reflection, even if a reflection would have a smaller error.

    Args:
        points: float `[N, 2]`.
        targets: float `[N, 2]`.

    Returns:
        The matrix M, float64 `[2, 3]`, which maps a point p to `M @ [*p, 1]`.

    Raises:
        UsageError: if the points are not finite, are farther than 10^6 from 0 or all within one
            pixel, or if no rotation is better than others.
    """
    if not _are_usable(points):
        raise UsageError(
            "landmarks must be numbers, and not all the same point: give pixels from -10^6 to 10^6"
            " that are more than one pixel apart."
        )
    center, target_center = points.mean(0), targets.mean(0)
    centered = points - center
    variance = np.square(centered).sum() / len(points)
    left, singular, right = np.linalg.svd((targets - target_center).T @ centered / len(points))
    signs = np.array([1, np.sign(np.linalg.det(left) * np.linalg.det(right))])
    if singular @ signs <= _SMALLEST * singular.sum():
        raise UsageError(
            "landmarks fit the standard positions equally well in all rotations: correct them."
        )
    linear = (singular @ signs / variance) * (left * signs) @ right
    return np.column_stack([linear, target_center - linear @ center])


def _are_usable(points: np.ndarray) -> bool:
    limited = (np.abs(points) <= _FARTHEST).all()  # False for NaN
    return bool(limited and np.ptp(points, axis=0).max() > 1)


def align(image: np.ndarray, landmarks: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Aligns a face: a bilinear warp, black where the image has no pixels.

    A face aligned to 112x96 equals columns 8 to 103 of the same face aligned to 112x112, with
    differences of at most one gray level.

    Args:
        image: uint8 `[H, W, 3]`.
        landmarks: x and y of left eye, right eye, nose, left and right corner of the mouth, float
            `[5, 2]`. Left is the left side of the image; 0 is the center of the first pixel.
        size: height and width of the result, one of `SIZES`.

    Returns:
        uint8 `[*size, 3]`.

    Raises:
        UsageError: if the landmarks or the size cannot be used, all landmarks are outside of the
            image, or OpenCV is not installed.
    """
    cv2 = opencv("aligning faces")
    if not ((landmarks > -1) & (landmarks < image.shape[1::-1])).all(1).any():
        raise UsageError(
            f"all landmarks are outside of the image of {image.shape[0]}x{image.shape[1]} pixels:"
            " correct them."
        )
    matrix = similarity(landmarks, template(size))
    return cv2.warpAffine(image, matrix, size[::-1], flags=cv2.INTER_LINEAR, borderValue=0)


def read_landmarks(path: str) -> dict[str, np.ndarray]:
    """Reads the landmarks of images, one image per line: `relative/path,x1,y1,...,x5,y5`.

    The columns are separated by commas or tabs. The first line may hold the names of the columns.
    The points are in the order of the argument of `align`.

    Returns:
        The landmarks by path, float64 `[5, 2]` each, in the order of the file.

    Raises:
        UsageError: if the file cannot be read, or a line does not have ten usable numbers.
    """
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path} cannot be read ({reason(error)}): name a file of landmarks."
        ) from error
    rows = [re.split("[\t,]", line.strip()) for line in text.splitlines() if line.strip()]
    landmarks: dict[str, np.ndarray] = {}
    for i, (name, *cells) in enumerate(rows):
        try:
            points = np.array(cells, float).reshape(5, 2)
        except ValueError as error:
            if i == 0 and not any(re.match(r"\s*[-+.\d]", cell) for cell in cells):
                continue  # the names of the columns
            raise UsageError(
                f"{path} has a line for {name!r:.200} without ten numbers x1, y1 to x5,"
                " y5: correct it."
            ) from error
        if name in landmarks:
            raise UsageError(f"{path} names {name:.200} twice: remove one line.")
        if not _are_usable(points):
            raise UsageError(
                f"{path} gives {name!r:.200} landmarks that are not numbers or all the same, or"
                " beyond 10^6 pixels: correct it."
            )
        landmarks[name] = points
    if not landmarks:
        raise UsageError(f"{path} holds no landmarks: write one line per image.")
    return landmarks
