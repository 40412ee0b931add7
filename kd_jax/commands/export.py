r"""Exports a trained network as StableHLO, ONNX, SavedModel or safetensors.

    kd-jax export --network=runs/quickstart/student --format=stablehlo --out=student.stablehlo \
        --source=digits
    kd-jax export --network=runs/mine/student --format=onnx --out=student.onnx --check=photos

A `stablehlo` or `onnx` file holds the whole computation with its preprocessing: from uint8 images
[N, H, W, C] of any number N to `logits`, `probabilities` and `embedding`. StableHLO runs by JAX on
CPUs, NVIDIA GPUs and TPUs, and needs no kd_jax. ONNX, always in float32, needs `pip install
'kd_jax[onnx]'` here and onnxruntime, or another runtime, where it is used. `tf` writes the same
computation as a folder, a SavedModel, and needs TensorFlow (`pip install 'kd_jax[tf]'`). A
`safetensors` file holds the weights only, under their names in Flax, and the description of the
network: `kd_jax.load` and all commands with `--network` take it.

`--size=HEIGHTxWIDTH` is the size of the images that the file takes (default: that of the training
images). The file resizes them to the resolution of the network.

Before the file is written, its outputs are compared with those of the network, on the CPU: on the
images of `--check`, an image or a folder of images of any size, on those of a source (`--source`,
`--source.KEY=VALUE`, `--split`), whose accuracy is then printed too, or on generated ones. The card
`FILE.json` next to the file describes input, preprocessing, outputs, classes, results and check.
"""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from kd_jax.commands import _classification, _cli
from kd_jax.core.errors import UsageError, check_choice
from kd_jax.core.files import absolute_path, output_file, output_folder, write_file
from kd_jax.data.preprocessing import check_aspect

if TYPE_CHECKING:
    from kd_jax.pretrained import NetworkInfo
    from kd_jax.pretrained.agreement import Agreement

_EXAMPLE = "kd-jax export --network=runs/quickstart/student --format=onnx --out=student.onnx"
_IMAGES = 256
"""Maximum number of images of a folder that are compared."""
_GENERATED = 64
"""Number of generated images."""


class _Images(NamedTuple):
    """Images for the comparison.

    Attributes:
        images: uint8 `[N, H, W, C]`.
        labels: class of each image, `[N]`; None if they are not known.
        name: description of the images.
    """

    images: np.ndarray
    labels: np.ndarray | None
    name: str


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return _cli.exit_code(lambda: _run([*(sys.argv[1:] if argv is None else argv)]))


def _run(argv: list[str]) -> None:
    args, options = _args(argv)
    from kd_jax.pretrained.exporting import FORMATS, in_float32, on_cpu

    format = FORMATS[args.format]
    path = (output_folder if format.folder else output_file)(args.out, "--out")
    card_path = output_file(f"{args.out}.json", "--out")

    from kd_jax.pretrained import agreement, cards
    from kd_jax.pretrained.class_names import read_class_names
    from kd_jax.pretrained.saved_model import unpack

    trained = _cli.load_network(args)
    if args.classes:
        names = read_class_names(args.classes, trained.info.num_classes)
        trained = dataclasses.replace(
            trained, info=dataclasses.replace(trained.info, classes=names)
        )
    size = _cli.height_and_width(args.size) or _size(trained.info)
    check_aspect(trained.info.size, size, "choose another --size")
    images = _images(args, options, trained.info, size)
    content = format.write(trained, size)
    original = in_float32(trained) if format.float32 else trained
    found = agreement.compare(format.run(content), on_cpu(original), images.images, images.labels)
    rounds = size != trained.info.size or original is not in_float32(original)
    found.check("rounded" if rounds else "exact")
    origin = cards.origin(absolute_path(args.network), args.role, args.checkpoint, "--network")
    card = cards.card(path.name, content, args.format, trained, size, found, images.name)
    card["network"] |= origin
    if format.folder:
        unpack(content, path)
    else:
        write_file(path, content, make_folder=True)
    write_file(card_path, json.dumps(card, indent=2) + "\n")
    shape = ", ".join(map(str, card["input"]["shape"]))
    holds = f"uint8 images [{shape}]" if format.computes else "weights only"
    print(f"file   {args.out}: {args.format}, {len(content) / 1e6:.2f} MB, {holds}")
    print(f"check  {_check_line(found, images.name)}")
    print(f"card   {args.out}.json")
    print(f"load   {cards.load_line(args.out, args.format)}")


def _args(argv: list[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """Returns the options, and those of the source."""
    parser = _cli.Parser(__doc__, _EXAMPLE, command="export")
    _cli.add_network(parser)
    add = parser.add_argument
    add("--format", help="stablehlo, onnx, tf or safetensors")
    add("--out", help="the file, of tf the folder; the card is written next to it")
    add("--size", help="HEIGHTxWIDTH of the images (default: that of the training images)")
    add("--classes", help="text file with one class name per line (default: those of the network)")
    add("--check", help="image or folder of images on which the file is compared")
    add("--source", help="source of images on which the file is compared, such as npz or digits")
    add("--split", help="split of the source, in the notation of TFDS (default: test)")
    options, rest = _cli.assignments(argv, "--source.")
    args = parser.parse(rest)
    parser.require(args, "network", "format", "out")

    from kd_jax.pretrained.exporting import FORMATS

    check_choice(args.format, FORMATS, "--format")
    if args.source:
        parser.refuse(args, ("check",), "with --source")
    elif options or args.split:
        raise UsageError("--split and --source.KEY are not used without --source.")
    return args, options


def _size(info: "NetworkInfo") -> tuple[int, int]:
    """Returns height and width of the training images; those of the input if not known."""
    if info.fit is not None and info.fit.size is not None:
        return info.fit.size
    return info.size


def _images(
    args: argparse.Namespace, options: dict[str, str], info: "NetworkInfo", size: tuple[int, int]
) -> _Images:
    """Returns the images on which the file is compared, of the height and width `size`."""
    from kd_jax.commands.predict import image_paths
    from kd_jax.pretrained.agreement import generated_images
    from kd_jax.pretrained.predicting import fit_image

    if args.source:
        split = args.split or "test"
        labeled = _classification.read_source(args.source, options, split)
        shape = (*size, len(info.mean))
        if labeled.image_shape != shape:
            raise UsageError(
                f"The images of --source={args.source} have the shape {list(labeled.image_shape)},"
                f" but the file takes {list(shape)}: choose --size or another source."
            )
        return _Images(labeled.images, labeled.labels, f"{args.source} ({split})")
    if args.check:
        fitted = dataclasses.replace(info, fit=dataclasses.replace(info.image_fit, size=size))
        paths = image_paths([args.check])
        chosen = np.linspace(0, len(paths) - 1, min(len(paths), _IMAGES)).astype(int)
        images = np.stack([fit_image(paths[i], fitted) for i in chosen])
        return _Images(images, None, os.fspath(args.check))
    images = generated_images(_GENERATED, (*size, len(info.mean)))
    return _Images(images, None, "generated images")


def _check_line(found: "Agreement", name: str) -> str:
    """Returns the result of the comparison in words."""
    number = found.images - found.other_classes
    text = (
        f"{name}: the same class on {number} of {found.images} images, greatest difference of"
        f" probabilities {found.differences['probabilities']:.1e}"
    )
    if found.accuracy is None or found.network_accuracy is None:
        return text
    return (
        f"{text}, accuracy {100 * found.accuracy:.2f} % (network:"
        f" {100 * found.network_accuracy:.2f} %)"
    )


if __name__ == "__main__":
    sys.exit(main())
