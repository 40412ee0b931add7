r"""Finds the images of a folder that are nearest to query images, and draws them.

    kd-jax search --network=runs/birds/student --gallery=birds --query=mine.jpg
    kd-jax search --network=runs/birds/student --gallery_network=runs/birds/teacher \
        --gallery=birds --query=small.png --query=other.png --k=20 --cache=birds.npz --out=found.png

`--gallery` is a folder, whose images are taken at any depth. Images may have any size and color:
each is scaled until it covers `--fit`, and its center is cut out. Scores are cosine similarities,
and all images of the gallery are compared. If the query is a file of the gallery, it is not among
its own results. `--gallery_network` embeds the gallery by another network, such as the teacher; the
embeddings of both must be of one space. `--query_size` reduces the queries first.

The results are printed as a table, or as JSON with `--json`. The contact sheet, `--out`, is a PNG
with each query at the left of its nearest images. `--cache` keeps the embeddings of the gallery in
an .npz file. A later search uses the file if the network and the images are still the same.

For approximate search in many millions of images use faiss or usearch. They read the embeddings of
`kd-jax embed` and of `--cache`, which are float32, contiguous and of length 1, so that the inner
product is the score:

    embeddings = numpy.load("birds.npz")["embeddings"]
    index = faiss.IndexHNSWFlat(embeddings.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    index.add(embeddings)
    index = usearch.index.Index(ndim=embeddings.shape[1], metric="ip")
    index.add(numpy.arange(len(embeddings)), embeddings)
"""

import argparse
import io
import json
import os
import sys
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from kd_jax.commands import _cli, _retrieval
from kd_jax.commands._contact_sheet import Picture, check_size, contact_sheet
from kd_jax.core.errors import UsageError, reason
from kd_jax.core.files import output_file, write_file
from kd_jax.core.hashing import content_hash, json_hash
from kd_jax.core.text import markdown
from kd_jax.data.image_files import FileImages, images_below
from kd_jax.data.local_files import expanded, open_file
from kd_jax.evaluation import nearest_neighbors
from kd_jax.evaluation._embeddings import usage_errors
from kd_jax.pretrained import Embedder, Trained

_EXAMPLE = "kd-jax search --network=runs/birds/student --gallery=birds --query=mine.jpg"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return _cli.exit_code(lambda: _run([*(sys.argv[1:] if argv is None else argv)]))


def _run(argv: list[str]) -> None:
    args = _parsed(argv)
    sheet, cache = _outputs(args)
    root = expanded(args.gallery)
    names = images_below(root)
    number = min(args.k, len(names))
    check_size(len(args.query), number)
    networks = _retrieval.load_networks(args)
    fit = _retrieval.fit_of(args, networks)
    paths = [os.path.abspath(expanded(query)) for query in args.query]
    asked = _retrieval.files(root, paths, fit)
    by_query = Embedder(networks[0])
    queries = _retrieval.embed_files(asked, {0: _retrieval.at_size(by_query, args.query_size)})[0]
    by_gallery = by_query if len(networks) == 1 else Embedder(networks[1])
    gallery = _gallery(by_gallery, networks[-1], _retrieval.files(root, names, fit), cache, args)
    places = {os.path.join(os.path.realpath(root), name): row for row, name in enumerate(names)}
    own = np.array([places.get(os.path.realpath(path), -1) for path in paths])
    with usage_errors(f"A search in {args.gallery}"):
        found = nearest_neighbors(queries, gallery, number, left_out=own)
    results = [
        {
            "query": query,
            "nearest": [
                {"image": names[row], "score": round(float(score), 6)}
                for row, score in zip(rows, scores, strict=True)
                if row >= 0
            ],
        }
        for query, rows, scores in zip(args.query, found.rows, found.scores, strict=True)
    ]
    write_file(sheet, _sheet(args, results, paths, str(root), len(names)), make_folder=True)
    if args.json:
        options = ("gallery", "gallery_network", "gallery_role", "query_size")
        about = {**_cli.network_json(args), **{name: getattr(args, name) for name in options}}
        about |= {"images": len(names), "fit": fit.size, "sheet": args.out}
        print(json.dumps({**about, "queries": results}, indent=2))
    else:
        print(_table(results))
        print(f"contact sheet drawn in {args.out}")


def _parsed(argv: list[str]) -> argparse.Namespace:
    """Returns the options; all that can be wrong without a file is checked."""
    parser = _cli.Parser(__doc__, _EXAMPLE, command="search")
    _cli.add_network(parser)
    _retrieval.add_gallery_network(parser)
    add = parser.add_argument
    add("--gallery", help="folder of the images that are searched")
    add("--query", action="append", help="an image file; it may be given several times")
    add("--query_size", type=_cli.count, help="height to which queries are reduced (default: none)")
    add("--k", type=_cli.count, default=10, help="number of images per query (default: 10)")
    add("--out", default="search.png", help="the contact sheet (default: search.png)")
    add("--cache", help="an .npz file that keeps the embeddings of the gallery")
    add("--json", action="store_true", help="print JSON in place of a table")
    args = parser.parse(argv)
    parser.require(args, "network", "gallery", "query")
    for name, suffix in (("out", ".png"), ("cache", ".npz")):
        path = getattr(args, name)
        if path is not None and not path.lower().endswith(suffix):
            raise UsageError(f"--{name}={path} must be a name that ends in {suffix}: add it.")
    return args


def _outputs(args: argparse.Namespace) -> tuple[epath.Path, epath.Path | None]:
    """Returns the paths of the sheet and of the cache."""
    cache = None if args.cache is None else output_file(args.cache, "--cache")
    return output_file(args.out, "--out"), cache


def _gallery(
    embed: Embedder,
    network: Trained,
    images: FileImages,
    cache: epath.Path | None,
    args: argparse.Namespace,
) -> np.ndarray:
    """Returns the embeddings of the gallery, unit rows in float32 `[N, D]`; reads them if kept."""
    if cache is None:
        return _embedded(embed, images)
    stamps = [os.stat(images.name(key)) for key in images.keys]
    stored = [[str(k), s.st_size, s.st_mtime_ns] for k, s in zip(images.keys, stamps, strict=True)]
    made_with = {
        "network": args.gallery_network or args.network,
        "role": args.gallery_role or args.role,
        "checkpoint": args.checkpoint,
        "gallery": os.path.abspath(images.root),
        "fit": repr(images.fit),
        "weights": content_hash(network.variables),
        "files": json_hash(stored),
    }
    kept = _read(cache, args.cache) if cache.exists() else None
    if kept is not None and kept["made_with"] == made_with:
        embeddings: np.ndarray = kept["embeddings"]
        return embeddings
    if kept is not None:
        changed = [key for key in made_with if kept["made_with"].get(key) != made_with[key]]
        print(f"{args.cache} is written again: {', '.join(changed)} changed", file=sys.stderr)
    embeddings = _embedded(embed, images)
    file = io.BytesIO()
    names = np.array([str(key) for key in images.keys])
    text = np.array(json.dumps(made_with))
    np.savez(file, allow_pickle=False, names=names, embeddings=embeddings, made_with=text)
    write_file(cache, file.getvalue(), make_folder=True)
    return embeddings


def _embedded(embed: Embedder, images: FileImages) -> np.ndarray:
    """Returns embeddings, divided by their lengths."""
    embeddings = _retrieval.embed_files(images, {0: embed})[0]
    return embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)


def _read(cache: epath.Path, name: str) -> dict[str, Any]:
    """Returns the content of a cache.

    Raises:
        UsageError: if the file was not made by this command. It is then not written either.
    """
    try:
        with open_file(cache) as opened, np.load(opened, allow_pickle=False) as file:
            made_with = json.loads(str(file["made_with"]))
            if "files" not in made_with or file["embeddings"].ndim != 2:
                raise ValueError("it has other content")
            return {"made_with": made_with, "embeddings": file["embeddings"]}
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(
            f"--cache={name} is no cache of kd-jax search ({reason(error)}): name another file, or"
            " remove this one."
        ) from error


def _sheet(
    args: argparse.Namespace,
    results: list[dict[str, Any]],
    paths: list[str],
    root: str,
    number: int,
) -> bytes:
    """Draws the contact sheet."""
    size = "" if args.query_size is None else f", queries of {args.query_size} pixels"
    by = "" if args.gallery_network is None else f", gallery by {args.gallery_network}"
    title = f"{number} images of {args.gallery} by {args.network}{by}{size}"
    rows = [
        (
            Picture(path, "query", os.path.basename(path)),
            [
                Picture(os.path.join(root, one["image"]), f"{one['score']:.4f}", one["image"])
                for one in result["nearest"]
            ],
        )
        for path, result in zip(paths, results, strict=True)
    ]
    return contact_sheet(title, rows)


def _table(results: list[dict[str, Any]]) -> str:
    """Returns the nearest images of all queries as a Markdown table."""
    rows = [
        [result["query"], one["image"], str(rank), f"{one['score']:.4f}"]
        for result in results
        for rank, one in enumerate(result["nearest"], 1)
    ]
    return markdown(("query", "image", "rank", "score"), rows, left=2)


if __name__ == "__main__":
    sys.exit(main())
