"""Aligns the faces of a folder by their landmarks.

python -m kd_jax.align --images=DIR --landmarks=FILE.csv --out=DIR --size=112x96

FILE.csv has a line `relative/path,x1,y1,...,x5,y5` for each image below --images: left eye, right
eye, nose, left and right corner of the mouth, as seen in the image. The faces are written as PNG
files under the same names. A killed run goes on where it stood; faces that are older than FILE.csv
are made again.
"""

import collections
import io
import os
import pathlib
import sys
from concurrent.futures import ThreadPoolExecutor

from etils import epath
from PIL import Image

from kd_jax import cli
from kd_jax.data import alignment
from kd_jax.data.folders import images_below, read_file
from kd_jax.data.images import pixels
from kd_jax.errors import UsageError
from kd_jax.files import folder, write_atomically

_EXAMPLE = "python -m kd_jax.align --images=lfw --landmarks=landmarks.csv --out=lfw_112x96"


def main() -> int:
    """Runs the command line; returns the exit code."""
    command = cli.Command(__doc__, _EXAMPLE)
    images = command.string("images", None, "Folder of the images, however deep they lie in it.")
    landmarks = command.string("landmarks", None, "File with a line of landmarks for each image.")
    out = command.string("out", None, "Folder for the faces: a path or gs://...")
    size = command.string("size", "112x96", "Of the faces: 112x96 or 112x112.")

    def align() -> None:
        command.require(images, landmarks, out)
        faces = cli.height_and_width(size)
        made, kept = align_folder(images.value, landmarks.value, out.value, faces)
        print(f"{made} faces of {size.value} written to {out.value}, {kept} were there already")

    return command.run(align)


def align_folder(images: str, landmarks: str, out: str, size: tuple[int, int]) -> tuple[int, int]:
    """Aligns all images below a folder and writes them as PNG files, on several threads.

    Args:
        images: the folder.
        landmarks: file for `read_landmarks`, with a line for each image.
        out: folder for the faces.
        size: height and width of the faces.

    Returns:
        How many faces were written, and how many were there and complete.

    Raises:
        UsageError: if images have no landmarks, or landmarks no image, or one cannot be used.
    """
    root = pathlib.Path(images).expanduser()
    points = alignment.read_landmarks(landmarks)
    alignment.template(size)
    names = set(images_below(root))
    for missing, word in (
        (sorted(names - points.keys()), f"has no landmarks in {landmarks}"),
        (sorted(points.keys() - names), f"is named in {landmarks}, but is no image there"),
    ):
        if missing:
            raise UsageError(
                f"{root / missing[0]} {word} ({len(missing)} in all): add them, or take them out."
            )
    if folder(out).is_relative_to(folder(root)):
        raise UsageError(f"--out={out} lies in --images={images}: choose a folder outside it.")
    try:
        folder(out).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out={out} cannot be written ({error}): choose another.") from error
    faces = _face_paths(names, folder(out))
    since = int(os.stat(os.path.expanduser(landmarks)).st_mtime)  # epath, too, has whole seconds

    def make(name: str) -> bool:
        if _is_complete(faces[name], size, since):
            return False
        image = pixels(read_file(str(root / name)), str(root / name))
        file = io.BytesIO()
        Image.fromarray(alignment.align(image, points[name], size)).save(file, "PNG")
        faces[name].parent.mkdir(parents=True, exist_ok=True)
        write_atomically(faces[name], file.getvalue())
        return True

    with ThreadPoolExecutor() as pool:
        made = sum(pool.map(make, faces))
    return made, len(faces) - made


def _face_paths(names: set[str], target: epath.Path) -> dict[str, epath.Path]:
    """Where the face of every image is written."""
    faces = {name: target / pathlib.PurePath(name).with_suffix(".png") for name in sorted(names)}
    face, number = collections.Counter(faces.values()).most_common(1)[0]
    if number > 1:
        raise UsageError(f"{number} images would become {face}: rename them.")
    return faces


def _is_complete(path: epath.Path, size: tuple[int, int], since: int) -> bool:
    """Whether a face was written after a time, and can be read."""
    try:
        data = path.read_bytes()
        return path.stat().mtime >= since and pixels(data, str(path)).shape == (*size, 3)
    except (OSError, UsageError):
        return False


if __name__ == "__main__":
    sys.exit(main())
