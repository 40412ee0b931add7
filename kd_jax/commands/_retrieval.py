"""Embeddings of folders of images of any size, for `kd-jax evaluate --retrieval` and `search`."""

import argparse
import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from kd_jax.commands import _cli
from kd_jax.core.errors import UsageError
from kd_jax.core.text import markdown
from kd_jax.data.class_split import by_folder
from kd_jax.data.fitting import Fit
from kd_jax.data.image_files import FileImages, folder_names
from kd_jax.data.local_files import expanded, is_count
from kd_jax.data.preprocessing import Degradation, check_aspect
from kd_jax.evaluation._embeddings import usage_errors
from kd_jax.evaluation.faces import MODES
from kd_jax.evaluation.retrieval import retrieval
from kd_jax.pretrained import Embedder, Trained, load

KS = (1, 2, 4, 8)
_BYTES = 2**27
"""Bytes of images in memory at once."""
_ROUND = 256
"""The number of images at once is a multiple of this, the batch size of `Embedder`."""
_OTHERS = ("singletons", "classes")
"""Numbers of images in the results that are not in the table."""

Sizes = tuple[int | None, ...]


def add_gallery_network(parser: _cli.Parser) -> None:
    """Adds the options of a second network, and of the shape of the images."""
    add = parser.add_argument
    add("--gallery_network", help="folder of the network that embeds the gallery (default: same)")
    add("--gallery_role", help="role of that network in its stage")
    add(
        "--fit",
        help="HEIGHTxWIDTH to which images are scaled and cropped (default: the training images)",
    )


def load_networks(args: argparse.Namespace) -> list[Trained]:
    """Returns the network of the queries, and that of the gallery if it is another one."""
    networks: list[Trained] = [_cli.load_network(args)]
    if args.gallery_network is not None or args.gallery_role is not None:
        folder = args.gallery_network or args.network
        key = "--gallery_network" if args.gallery_network else "--network"
        networks.append(load(folder, role=args.gallery_role, checkpoint=args.checkpoint, key=key))
    return networks


def fit_of(args: argparse.Namespace, networks: list[Trained]) -> Fit:
    """Returns the shape that all images are brought to: by default that of training images.

    Of two networks, it is that of the larger images.
    """
    size = _cli.height_and_width(args.fit, "--fit")
    fits = [network.info.image_fit for network in networks]
    largest = max(fits, key=lambda fit: fit.size or (0, 0))
    gray = all(fit.gray for fit in fits)
    try:
        fit = dataclasses.replace(largest, size=size or largest.size, gray=gray)
    except ValueError as error:
        raise UsageError(f"--fit={args.fit} is impossible ({error}): make it smaller.") from error
    for network in networks:
        height, width = network.info.size
        if fit.size is None or fit.size[0] < height or fit.size[1] < width:
            raise UsageError(
                f"--fit={args.fit} is smaller than the input of a network, {height}x{width}: make"
                " it larger."
            )
        check_aspect(network.info.size, fit.size, "choose another --fit, or networks of one aspect")
    return fit


def class_files(folder: str, option: str, fit: Fit) -> tuple[FileImages, np.ndarray]:
    """Returns the images of a folder with one folder per class, and the class of each image.

    Raises:
        UsageError: if there are no folders, or one has no images.
    """
    root = expanded(folder)
    names = folder_names(root)
    if not names:
        raise UsageError(
            f"--{option}={folder} holds no folders: put the images of each class into one folder."
        )
    groups = by_folder(root)
    labels = np.repeat(names, [len(group) for group in groups])
    return files(root, [name for group in groups for name in group], fit), labels


def files(root: pathlib.Path, names: list[str], fit: Fit) -> FileImages:
    """Returns image files, brought to one shape when they are read."""
    return FileImages(
        keys=np.array(names, object),
        labels=np.zeros(len(names), np.int32),
        num_classes=1,
        fit=fit,
        root=str(root),
    )


def embed_files(
    images: FileImages, embedders: Mapping[Any, Callable[[np.ndarray], np.ndarray]]
) -> dict[Any, np.ndarray]:
    """Embeds image files in several ways; each file is read once, and few are in memory.

    Args:
        images: the files.
        embedders: functions from uint8 `[K, H, W, C]` to float32 `[K, D]`, by any key.

    Returns:
        Embeddings, float32 `[N, D]`, by key.
    """
    step = max(1, _BYTES // int(np.prod(images.image_shape)) // _ROUND) * _ROUND
    parts: dict[Any, list[np.ndarray]] = {key: [] for key in embedders}
    for start in range(0, len(images), step):
        block = images.take(np.arange(start, min(start + step, len(images))))
        for key, embed in embedders.items():
            parts[key].append(embed(block))
    return {key: np.concatenate(blocks) for key, blocks in parts.items()}


def at_size(embedder: Embedder, size: int | None) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function that embeds images at a low resolution; None is full resolution."""
    return lambda images: embedder(images, size=size)


def whole_numbers(text: str, option: str) -> tuple[int, ...]:
    """Reads a value such as `1,10,100`."""
    parts = text.split(",")
    if not all(is_count(part) and int(part) for part in parts):
        raise UsageError(
            f"{option}={text} must be whole numbers from 1 on, separated by commas, such as 1,10."
        )
    return tuple(map(int, parts))


def evaluate(args: argparse.Namespace, degradation: Degradation, sizes: Sizes) -> dict[str, Any]:
    """Evaluates retrieval in a folder, or from a folder of queries in one of a gallery.

    Args:
        args: options of the command line.
        degradation: filters and blur of low resolutions.
        sizes: heights to which the queries are reduced; None is full resolution.

    Returns:
        Metrics as JSON, by size.
    """
    ks = None if args.ks is None else whole_numbers(args.ks, "--ks")
    metrics = tuple(args.metrics.split(","))
    networks = load_networks(args)
    fit = fit_of(args, networks)
    asked, labels = class_files(args.retrieval, "retrieval", fit)
    known, gallery_labels = asked, None
    if args.gallery is not None:
        if os.path.realpath(args.gallery) == os.path.realpath(args.retrieval):
            raise UsageError(
                "--gallery is the folder of --retrieval, so that each image would find itself:"
                " leave --gallery out."
            )
        known, gallery_labels = class_files(args.gallery, "gallery", fit)
    embedders = [Embedder(one, degradation=degradation) for one in networks]
    both_low = MODES[args.mode][0]
    low: Sizes = sizes if both_low else (None,)
    first = {(0, size): at_size(embedders[0], size) for size in sizes}
    by_gallery = len(embedders) - 1
    second = {(by_gallery, size): at_size(embedders[by_gallery], size) for size in low}
    if known is asked:  # what both sides need is embedded once
        queries = gallery = embed_files(asked, {**first, **second})
    else:
        queries, gallery = embed_files(asked, first), embed_files(known, second)
    most = len(known) - (known is asked)
    results = {}
    for size in sizes:
        with usage_errors(f"Retrieval in {args.retrieval}"):
            results["full" if size is None else str(size)] = retrieval(
                queries[0, size],
                labels,
                gallery[by_gallery, size if both_low else None],
                gallery_labels,
                ks=ks or [k for k in KS if k <= most] or [1],
                metrics=metrics,
                seed=args.seed,
            ).to_json()
    return {"set": pathlib.Path(args.retrieval).name, "fit": fit.size, "resolutions": results}


def table(results: Mapping[str, Any]) -> str:
    """Returns the results as a Markdown table, in percent."""
    counts = ("queries", "gallery")
    found = results["resolutions"]
    names = [name for name in next(iter(found.values())) if name not in (*counts, *_OTHERS)]
    rows = [
        [
            size,
            *(f"{100 * result[name]:.2f}" for name in names),
            *(str(result[name]) for name in counts),
        ]
        for size, result in found.items()
    ]
    return markdown(("resolution of the queries", *names, *counts), rows)
