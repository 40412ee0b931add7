"""Evaluation of embeddings of faces, for `kd-jax evaluate` of pairs and of galleries."""

import argparse
from collections.abc import Mapping
from typing import Any

from kd_jax.core.text import markdown
from kd_jax.evaluation import identification
from kd_jax.evaluation._embeddings import usage_errors
from kd_jax.evaluation.faces import (
    FaceGallery,
    FacePairs,
    lr_verification,
    read_bin,
    read_gallery,
    read_pairs,
    read_scface,
)
from kd_jax.pretrained import Embedder

Crop = tuple[int, int] | None
Sizes = tuple[int | None, ...]


def evaluate(
    kind: str, args: argparse.Namespace, embed: Embedder, crop: Crop, sizes: Sizes
) -> dict[str, Any]:
    """Evaluates a set of images; returns JSON.

    Args:
        kind: option that names the set: `pairs`, `bin`, `scface` or `folder`.
        args: options of the command line.
        embed: the network.
        crop: height and width of the center that is cut out of every image; None uses whole images.
        sizes: heights to which probes are reduced; None is full resolution.
    """
    if kind == "scface":
        return identify(embed, read_scface(args.scface, crop))
    if kind == "folder":
        faces = read_gallery(
            args.folder,
            crop,
            args.identities,
            args.seed,
            probe_fraction=args.probe_fraction,
            min_images=args.min_images,
        )
        return identify(embed, faces, sizes, args.ranked)

    def read(path: str) -> FacePairs:
        return read_bin(path, crop) if kind == "bin" else read_pairs(path, args.images, crop)

    threshold = args.threshold if args.threshold_pairs is None else read(args.threshold_pairs)
    pairs = read(getattr(args, kind))
    return verify(embed, pairs, sizes, args.mode, args.protocol, threshold)


def verify(
    embed: Embedder,
    pairs: FacePairs,
    sizes: Sizes,
    mode: str,
    protocol: str,
    threshold: float | FacePairs | None = None,
) -> dict[str, Any]:
    """Verifies pairs at several sizes of the probe; returns JSON."""
    with usage_errors(pairs.name):
        results = lr_verification(
            embed, pairs, sizes, mode=mode, protocol=protocol, threshold=threshold
        )
    return {
        "set": pairs.name,
        "mode": mode,
        "sizes": {_name(size): result.to_json() for size, result in results.items()},
    }


def identify(
    embed: Embedder, faces: FaceGallery, sizes: Sizes = (None,), ranked: str = "images"
) -> dict[str, Any]:
    """Identifies every set of probes at several sizes; returns JSON."""
    gallery, probes = embed(faces.gallery.images), {}
    most = len(gallery) if ranked == "images" else len(set(faces.gallery.labels.tolist()))
    ranks = [rank for rank in (1, 5, 10) if rank <= most]
    for name, images in faces.probes.items():
        for size in sizes:
            with usage_errors(faces.name):
                metrics = identification(
                    gallery,
                    faces.gallery.labels,
                    embed(images.images, size=size),
                    images.labels,
                    ranks=ranks,
                    ranked=ranked,
                )
            probes[name if sizes == (None,) else f"{name}, {_name(size)}"] = metrics.to_json()
    return {"set": faces.name, "probes": probes}


def _name(size: int | None) -> str:
    return "full" if size is None else str(size)


def table(metrics: Mapping[str, Any]) -> str:
    """Returns the results as a Markdown table, in percent."""
    if "probes" in metrics:
        ranks = next(iter(metrics["probes"].values()))["cmc"]
        rows = [
            [name, *(f"{100 * rate:.2f}" for rate in result["cmc"].values())]
            for name, result in metrics["probes"].items()
        ]
        return markdown(("probes", *(f"rank {rank}" for rank in ranks)), rows)
    rows = [
        [
            size,
            f"{100 * result['accuracy']:.2f}",
            f"{100 * result['std']:.2f}",
            f"{100 * result['auc']:.2f}",
            f"{100 * result['eer']:.2f}",
            *(f"{100 * rate['val']:.2f}" for rate in result["val_at_far"].values()),
        ]
        for size, result in metrics["sizes"].items()
    ]
    fars = next(iter(metrics["sizes"].values()))["val_at_far"]
    columns = ("probe", "accuracy", "std", "AUC", "EER", *(f"VAL@{far}" for far in fars))
    return markdown(columns, rows)
