r"""Predicts the classes of image files by a trained network.

    kd-jax predict --network=runs/quickstart/student digit.png
    kd-jax predict --network=runs/mine/student --format=csv --out=classes.csv photos more/cat.jpg

Each argument is an image or a folder, whose images are taken at any depth. The images may have any
size and color: each is resized until it covers the size of the training images, and its center is
cut out. A network of gray images sees color images in gray. The network then resizes them as in
`kd-jax evaluate`. `--top_k` is the number of classes per image, the most probable first.

The names of the classes are stored with the network. For a network without names, the numbers of
the classes are printed, and `--classes=FILE`, with one name per line, gives the names.

Files that are no images are left out; the command then ends with the exit code 2. Transparency is
ignored.
"""

import argparse
import csv
import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from kd_jax.commands import _cli
from kd_jax.core.errors import UsageError, check_choice
from kd_jax.core.files import output_file, write_file
from kd_jax.core.text import markdown
from kd_jax.data.image_files import images_below
from kd_jax.data.local_files import expanded

if TYPE_CHECKING:
    from kd_jax.pretrained.predicting import Prediction

_EXAMPLE = "kd-jax predict --network=runs/quickstart/student digit.png"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return _cli.exit_code(lambda: _run([*(sys.argv[1:] if argv is None else argv)]))


def _run(argv: list[str]) -> None:
    args = _args(argv)
    path = output_file(args.out, "--out") if args.out else None
    files = image_paths(args.images)

    from kd_jax.pretrained.class_names import read_class_names
    from kd_jax.pretrained.predicting import Predictor, fit_image

    trained = _cli.load_network(args)
    classes = read_class_names(args.classes, trained.info.num_classes) if args.classes else ()
    read: list[str] = []
    errors: list[str] = []

    def images() -> Iterator[np.ndarray]:
        for file in files:
            try:
                image = fit_image(file, trained.info)
            except UsageError as error:
                errors.append(str(error))
                continue
            read.append(file)
            yield image

    predictions = Predictor(trained, classes)(images(), top_k=args.top_k)
    if read:
        text = _FORMATS[args.format](read, predictions)
        if path is None:
            print(text)
        else:
            write_file(path, text + "\n", make_folder=True)
            print(f"the classes of {len(read)} images are in {args.out}")
    if errors:
        count = f"{len(errors)} of {len(files)} images are left out, such as: "
        raise UsageError(f"{count if len(files) > 1 else ''}{errors[0]}")


def _args(argv: list[str]) -> argparse.Namespace:
    parser = _cli.Parser(__doc__, _EXAMPLE, command="predict")
    _cli.add_network(parser)
    add = parser.add_argument
    add("images", nargs="*", metavar="IMAGE_OR_FOLDER", help="image files and folders of images")
    add("--top_k", type=_cli.count, default=3, help="classes per image (default: %(default)s)")
    add("--format", default="table", help="table, json or csv (default: %(default)s)")
    add("--classes", help="text file with one class name per line (default: those of the network)")
    add("--out", help="file for the result (default: it is printed)")
    args = parser.parse(argv)
    parser.require(args, "network")
    if not args.images:
        raise UsageError(f"An image or a folder is missing: type for example `{_EXAMPLE}`.")
    check_choice(args.format, _FORMATS, "--format")
    return args


def image_paths(names: Sequence[str]) -> list[str]:
    """Returns the paths of image files, and of all images below folders, sorted per folder.

    Raises:
        UsageError: if a folder has no images or cannot be read.
    """
    paths: list[str] = []
    for name in names:
        place = expanded(name)
        below = (
            [os.path.join(place, file) for file in images_below(place)] if place.is_dir() else ()
        )
        paths += below or [str(place)]
    return paths


def _table(files: Sequence[str], predictions: "Sequence[Sequence[Prediction]]") -> str:
    """Returns one row per image, with probabilities in percent."""
    further = [f"class {k}" for k in range(2, len(predictions[0]) + 1)]
    rows = [
        [
            file,
            best.name,
            f"{100 * best.probability:.1f} %",
            *(f"{other.name} {100 * other.probability:.1f} %" for other in others),
        ]
        for file, (best, *others) in zip(files, predictions, strict=True)
    ]
    return markdown(("image", "class", "probability", *further), rows, left=2)


def _json(files: Sequence[str], predictions: "Sequence[Sequence[Prediction]]") -> str:
    """Returns a list with one object per image."""
    results = [
        {
            "image": file,
            "predictions": [
                {"class": one.name, "label": one.label, "probability": one.probability}
                for one in classes
            ],
        }
        for file, classes in zip(files, predictions, strict=True)
    ]
    return json.dumps(results, indent=2)


def _csv(files: Sequence[str], predictions: "Sequence[Sequence[Prediction]]") -> str:
    """Returns one line per image and class; the most probable class has rank 1."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("image", "rank", "class", "label", "probability"))
    for name, classes in zip(files, predictions, strict=True):
        for rank, one in enumerate(classes, start=1):
            writer.writerow((name, rank, one.name, one.label, f"{one.probability:.6g}"))
    return file.getvalue().rstrip("\n")


_FORMATS = {"table": _table, "json": _json, "csv": _csv}

if __name__ == "__main__":
    sys.exit(main())
