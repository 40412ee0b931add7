"""Aligns the faces of a folder by their landmarks.

    kd-jax align --images=DIR --landmarks=FILE.csv --out=DIR --size=112x96

FILE.csv has one line `relative/path,x1,y1,...,x5,y5` for each image below --images: left eye, right
eye, nose, left and right corner of the mouth, as seen in the image. The faces are written as PNG
files under the same names. A stopped command resumes; faces that are older than FILE.csv are made
again.
"""

import collections
import io
import os
import pathlib
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from etils import epath

from kd_jax.commands import _cli
from kd_jax.core.errors import UsageError
from kd_jax.core.files import absolute_path, output_folder, write_file
from kd_jax.data import alignment
from kd_jax.data.decoding import pixels
from kd_jax.data.image_files import images_below, read_file
from kd_jax.data.local_files import expanded

_EXAMPLE = "kd-jax align --images=lfw --landmarks=landmarks.csv --out=lfw_112x96"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return _cli.exit_code(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> None:
    parser = _cli.Parser(__doc__, _EXAMPLE, command="align")
    add = parser.add_argument
    add("--images", help="folder of the images, at any depth")
    add("--landmarks", help="file with one line of landmarks for each image")
    add("--out", help="folder for the faces: a path or gs://...")
    add("--size", default="112x96", help="size of the faces: 112x96 or 112x112")
    args = parser.parse(argv)
    parser.require(args, "images", "landmarks", "out")
    size = _cli.height_and_width(args.size) or (112, 96)
    made, kept = align_folder(args.images, args.landmarks, args.out, size)
    print(f"{made} faces of {args.size} written to {args.out}, {kept} were there already")


def align_folder(images: str, landmarks: str, out: str, size: tuple[int, int]) -> tuple[int, int]:
    """Aligns all images below a folder and writes them as PNG files, on several threads.

    Args:
        images: the folder.
        landmarks: file for `read_landmarks`, with one line for each image.
        out: folder for the faces.
        size: height and width of the faces.

    Returns:
        The number of faces that were written, and of those that were there and complete.

    Raises:
        UsageError: if images have no landmarks, or landmarks no image, or one cannot be used.
    """
    root, target = expanded(images), output_folder(out, "--out")
    points = alignment.read_landmarks(landmarks)
    alignment.template(size)
    names = set(images_below(root))
    for missing, word in (
        (sorted(names - points.keys()), f"has no landmarks in {landmarks}"),
        (sorted(points.keys() - names), f"is named in {landmarks}, but is no image there"),
    ):
        if missing:
            raise UsageError(
                f"{root / missing[0]} {word} ({len(missing)} in all): add them, or remove them."
            )
    if target.is_relative_to(absolute_path(root)):
        raise UsageError(f"--out={out} is in --images={images}: choose a folder outside it.")
    faces = _face_paths(names, target)
    since = int(os.stat(os.path.expanduser(landmarks)).st_mtime)  # epath, too, has whole seconds

    def make(name: str) -> bool:
        if _is_complete(faces[name], size, since):
            return False
        write_file(faces[name], _aligned(str(root / name), points[name], size), make_folder=True)
        return True

    with ThreadPoolExecutor() as pool:
        made = sum(pool.map(make, faces))
    return made, len(faces) - made


def _aligned(path: str, landmarks: np.ndarray, size: tuple[int, int]) -> bytes:
    """Returns the aligned face of an image file as a PNG file."""
    from PIL import Image

    image = pixels(read_file(path), path)
    try:
        face = alignment.align(image, landmarks, size)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    file = io.BytesIO()
    Image.fromarray(face).save(file, "PNG")
    return file.getvalue()


def _face_paths(names: set[str], target: epath.Path) -> dict[str, epath.Path]:
    """Returns the file of the face of every image."""
    faces = {name: target / pathlib.PurePath(name).with_suffix(".png") for name in sorted(names)}
    face, number = collections.Counter(faces.values()).most_common(1)[0]
    if number > 1:
        raise UsageError(f"{number} images would become {face}: rename them.")
    return faces


def _is_complete(path: epath.Path, size: tuple[int, int], since: int) -> bool:
    """Returns whether a face was written after a time and can be read."""
    try:
        if not path.is_file():  # a FIFO would never end
            return False
        data = path.read_bytes()
        return path.stat().mtime >= since and pixels(data, str(path)).shape == (*size, 3)
    except (OSError, UsageError):
        return False


if __name__ == "__main__":
    sys.exit(main())
