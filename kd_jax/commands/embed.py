r"""Writes the embeddings of images by a trained network to an .npz file.

    kd-jax embed --network=runs/kdim_lfw/kdim --images=lfw --size=112x96 --out=embeddings.npz
    kd-jax embed --network=runs/quickstart/teacher --source=digits --split=train --logits --raw \
        --out=outputs.npz

`--images` is a folder, whose images are taken at any depth, a text file with one path per line, or
one image. All images must have one size. The file holds `names`, the paths below the folder or as
they are in the list; `embeddings`, float32 [N, D] of length 1 (`--raw` keeps their length); and
`made_with`, the options. With `--logits` it also holds `logits`, float32 [N, C].

`--source` takes the images of a source instead; `--source.KEY=VALUE` sets its options. `names` are
then those that a recorded teacher needs: paths below the folder of the source, or positions in the
split.
"""

import argparse
import functools
import io
import json
import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from kd_jax.commands import _classification, _cli
from kd_jax.core.errors import UsageError, reason
from kd_jax.core.files import output_file, write_file
from kd_jax.data import ImageSet
from kd_jax.data.image_files import EXTENSIONS, FileImages, images_below
from kd_jax.data.local_files import expanded, read_text

if TYPE_CHECKING:
    from kd_jax.pretrained import Embedder

_EXAMPLE = "kd-jax embed --network=runs/kdim_lfw/kdim --images=lfw --size=112x96 --out=lfw.npz"
_BLOCK = 4096
"""Number of images in memory at once."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return _cli.exit_code(lambda: _run([*(sys.argv[1:] if argv is None else argv)]))


def _run(argv: list[str]) -> None:
    parser = _cli.Parser(__doc__, _EXAMPLE, command="embed")
    _cli.add_network(parser)
    add, flag = parser.add_argument, argparse.BooleanOptionalAction
    add("--images", help="folder of images, an image, or a text file with one path per line")
    add("--size", help="HEIGHTxWIDTH of the middle of the images that is used (default: all)")
    add("--out", help="the .npz file")
    add("--raw", action=flag, default=False, help="keep the length of the embeddings")
    add("--flip", action=flag, default=False, help="add the embedding of the mirror image")
    add("--logits", action=flag, default=False, help="write the logits too")
    add("--source", help="source of the images instead of --images, such as npz or digits")
    add("--split", help="split of the source, in the notation of TFDS (default: train)")
    options, rest = _cli.assignments(argv, "--source.")
    args = parser.parse(rest)
    parser.require(args, "network", *(() if args.source else ("images",)), "out")
    path = output_file(args.out, "--out")
    images = _images(args, options, parser)

    from kd_jax.pretrained import Embedder
    from kd_jax.pretrained.classifier import Classifier

    trained = _cli.load_network(args)
    names = np.arange(len(images)) if images.names is None else images.names
    arrays = {"names": np.array([str(name) for name in names])}
    arrays["embeddings"] = embed_files(Embedder(trained), images, flip=args.flip, unit=not args.raw)
    if args.logits:
        arrays["logits"] = _in_blocks(Classifier(trained), images)
    made_with = {**_cli.network_json(args), "size": args.size, "flip": args.flip}
    if args.source:
        made_with["source"] = {"name": args.source, **options, "split": args.split or "train"}
    file = io.BytesIO()
    arrays["made_with"] = np.array(json.dumps({**made_with, "unit": not args.raw}))
    np.savez(file, allow_pickle=False, **arrays)
    write_file(path, file.getvalue(), make_folder=True)
    number, width = arrays["embeddings"].shape
    print(f"{number} embeddings of {width} numbers written to {args.out}")


def _images(
    args: argparse.Namespace, options: dict[str, str], parser: _cli.Parser
) -> ImageSet | FileImages:
    """Returns the images that the options name."""
    if not args.source:
        if options or args.split:
            raise UsageError("--split and --source.KEY are not used without --source.")
        return image_files(args.images, _cli.height_and_width(args.size))
    parser.refuse(args, ("images", "size"), "with --source")
    return _classification.read_source(args.source, options, args.split or "train")


def image_files(path: str, size: tuple[int, int] | None = None) -> FileImages:
    """Returns the images below a folder, sorted by path, those of a text file, or one image.

    Raises:
        UsageError: if there are none.
    """
    place = expanded(path)
    if os.path.isdir(place):
        names, root = images_below(place), place
    elif place.name.lower().endswith(EXTENSIONS):
        names, root = [place.name], place.parent
    else:
        try:
            lines = read_text(place).splitlines()
        except UnicodeDecodeError as error:
            raise UsageError(
                f"--images={path} is no text: name a folder of images, or a text file with one path"
                " per line."
            ) from error
        except OSError as error:
            raise UsageError(
                f"--images={path} cannot be read ({reason(error)}): name a folder of images, or a"
                " text file with one path per line."
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
    embedder: "Embedder",
    images: ImageSet | FileImages,
    *,
    flip: bool = False,
    unit: bool = True,
) -> np.ndarray:
    """Computes embeddings, float32 `[N, D]`, of a set of images, block by block.

    Args:
        embedder: the network.
        images: the images, in memory or on a disk.
        flip: add the embedding of the mirror image.
        unit: divide each embedding by its length.
    """
    embeddings = _in_blocks(embedder, images)
    if flip:
        embeddings = embeddings + _in_blocks(functools.partial(embedder, mirrored=True), images)
    if unit:
        embeddings /= np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    return embeddings


def _in_blocks(
    network: Callable[[np.ndarray], np.ndarray], images: ImageSet | FileImages
) -> np.ndarray:
    """Applies a network to blocks of images, so that few of them are in memory."""
    starts = range(0, len(images), _BLOCK)
    blocks = (np.arange(start, min(start + _BLOCK, len(images))) for start in starts)
    return np.concatenate([network(images.take(block)) for block in blocks])


if __name__ == "__main__":
    sys.exit(main())
