"""Writes the embeddings of images by a trained network to an .npz file.

python -m kd_jax.embed --network=runs/kdim_lfw/kdim --images=lfw --size=112x96 --out=embeddings.npz

`--images` is a folder, whose images are taken wherever they lie below it, or a text file with one
path a line. All images must have one size. The file holds `names`, the paths below the folder or as
they stand in the list, `embeddings` float32 [N, D] of length 1 (`--raw` leaves them as they are),
and what they were made with.
"""

import io
import json
import os
import pathlib
import sys

import numpy as np

from kd_jax import cli
from kd_jax.data.folders import FileImages, images_below
from kd_jax.embedding import Embedder
from kd_jax.errors import UsageError
from kd_jax.files import write_atomically

_EXAMPLE = (
    "python -m kd_jax.embed --network=runs/kdim_lfw/kdim --images=lfw --size=112x96 --out=lfw.npz"
)
_BLOCK = 4096
"""Images that lie in memory at once."""


def main() -> int:
    """Runs the command line; returns the exit code."""
    command = cli.Command(__doc__, _EXAMPLE)
    network = cli.NetworkFlags(command)
    images = command.string("images", None, "Folder of images, or a file with one path a line.")
    size = command.string("size", None, "HEIGHTxWIDTH of the middle of the images; default all.")
    out = command.string("out", None, "The .npz file.")
    raw = command.boolean("raw", False, "Keep the embeddings' lengths.")
    flip = command.boolean("flip", False, "Add the embedding of the mirror image.")

    def embed() -> None:
        command.require(network.network, images, out)
        path = cli.writable(out)
        files = image_files(images.value, cli.height_and_width(size))
        embedder = Embedder(network.load())
        embeddings = embed_files(embedder, files, flip=flip.value, unit=not raw.value)
        options = {"size": size.value, "flip": flip.value, "unit": not raw.value}
        file = io.BytesIO()
        names = np.array([str(key) for key in files.keys])
        np.savez(
            file,
            names=names,
            embeddings=embeddings,
            made_with=json.dumps({**network.to_json(), **options}),
        )
        write_atomically(path, file.getvalue())
        print(f"{len(files)} embeddings of {embeddings.shape[1]} numbers written to {out.value}")

    return command.run(embed)


def image_files(path: str, size: tuple[int, int] | None = None) -> FileImages:
    """The images below a folder, sorted by path, or those that a text file names, in its order.

    Raises:
        UsageError: if there are none.
    """
    place = pathlib.Path(path).expanduser()
    if place.is_dir():
        names, root = images_below(place), place
    else:
        try:
            lines = place.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, ValueError) as error:
            raise UsageError(
                f"--images={path} cannot be read ({error}): name a folder of images, or a text file"
                " with one path a line."
            ) from error
        names = [os.path.expanduser(line.strip()) for line in lines if line.strip()]
        root = pathlib.Path()
    if not names:
        raise UsageError(f"--images={path} names no images: add some.")
    return FileImages(
        keys=np.array(names, object),
        labels=np.zeros(len(names), np.int32),
        num_classes=1,
        size=size,
        root=str(root),
    )


def embed_files(
    embedder: Embedder, files: FileImages, *, flip: bool = False, unit: bool = True
) -> np.ndarray:
    """Embeddings float32 `[N, D]` of images on a disk, block by block."""
    parts = []
    for start in range(0, len(files), _BLOCK):
        images = files.take(np.arange(start, min(start + _BLOCK, len(files))))
        found = embedder(images)
        parts.append(found + embedder(images, mirrored=True) if flip else found)
    embeddings = np.concatenate(parts)
    if unit:
        embeddings /= np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    return embeddings


if __name__ == "__main__":
    sys.exit(main())
