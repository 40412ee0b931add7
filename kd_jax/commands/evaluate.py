"""Evaluates a trained network: classification, or verification and identification of faces.

    kd-jax evaluate --network=runs/quickstart/student --source=digits --resolutions=full,4
    kd-jax evaluate --network=runs/mine/student --source=npz --path='flowers_{split}.npz'
    N=runs/kdim_lfw/kdim
    kd-jax evaluate --network=$N --size=112x96 --pairs=lfw/pairs.txt --images=lfw
    kd-jax evaluate --network=$N --size=112x96 --bin=lfw.bin --protocol=insightface
    kd-jax evaluate --network=$N --size=112x96 --scface=scface_112x112
    kd-jax evaluate --network=$N --size=112x96 --folder=lfw --identities=180

Classification (`--source`) reads a split of any source of images; `--source.KEY=VALUE` sets the
options of the source. It reports accuracy, top-5 accuracy, accuracy per class and the confusion
matrix, for images reduced to each of `--resolutions`. With `--out=FILE.json` the confusion matrices
are drawn next to the file.

Images of faces must be aligned. `--size` is the part in their middle that is used, as in training:
112x96 of 112x112 for KDim's networks. The network sees them at its own resolution. The second image
of every pair, the probe, is reduced to each of `--probe_sizes` and enlarged again; `--mode=lr_lr`
reduces both images. The probes of SCface are small already. A folder has one folder per identity:
random identities are chosen, one image of each is the gallery, and the others are the probes.
`--out=FILE.json` stores every number with its protocol and filters.
"""

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kd_jax.commands import _classification, _cli
from kd_jax.core.errors import UsageError, check_choice
from kd_jax.core.files import write_atomically
from kd_jax.core.text import markdown
from kd_jax.data.preprocessing import Degradation
from kd_jax.evaluation import identification
from kd_jax.evaluation.faces import (
    MODES,
    PROTOCOLS,
    FaceGallery,
    FacePairs,
    lr_verification,
    read_bin,
    read_gallery,
    read_pairs,
    read_scface,
)
from kd_jax.pretrained import Embedder

_EXAMPLE = (
    "kd-jax evaluate --network=runs/kdim_lfw/kdim --size=112x96 --pairs=lfw/pairs.txt --images=lfw"
)

_FILTERS = ("size", "down", "up", "blur")
_USES: dict[str, tuple[str, ...]] = {
    "source": ("path", "split", "resolutions"),
    "pairs": (*_FILTERS, "images", "mode", "protocol", "probe_sizes"),
    "bin": (*_FILTERS, "mode", "protocol", "probe_sizes"),
    "scface": _FILTERS,
    "folder": (*_FILTERS, "identities", "seed", "probe_sizes"),
}
"""The sets of images, and the options that each uses in addition to the common ones."""

_DEFAULTS = {
    "split": "test",
    "resolutions": "full",
    "down": "bicubic",
    "up": "bicubic",
    "blur": 0.0,
    "identities": 100,
    "seed": 0,
    "probe_sizes": "8,12,16,20,full",
    "mode": "hr_lr",
    "protocol": "exact",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return _cli.exit_code(lambda: _run([*(sys.argv[1:] if argv is None else argv)]))


def _run(argv: list[str]) -> None:
    parser = _parser()
    options, rest = _cli.assignments(argv, "--source.")
    args = parser.parse(rest)
    parser.require(args, "network")
    kind = _kind(args)
    for name, default in _DEFAULTS.items():
        if getattr(args, name) is None:
            setattr(args, name, default)
    if kind == "source":
        _classify(args, options)
        return
    if options:
        raise UsageError(f"--source.{min(options)} is not used without --source: leave it out.")
    crop, sizes = _cli.height_and_width(args.size), _cli.probe_sizes(args.probe_sizes)
    check_choice(args.mode, MODES, "--mode")
    check_choice(args.protocol, PROTOCOLS, "--protocol")
    path = _cli.writable(args.out, "--out") if args.out else None
    if kind == "pairs":
        parser.require(args, "images")
    degradation = _degradation(args)  # its error comes before the network is read
    embed = Embedder(_cli.load_network(args), degradation=degradation)
    metrics = {
        **_cli.network_json(args),
        "size": args.size,
        "degradation": {"down": args.down, "up": args.up, "blur": args.blur},
        **{name: getattr(args, name) for name in (kind, *_USES[kind]) if name not in _FILTERS},
        **_evaluate(kind, args, embed, crop, sizes),
    }
    print(table(metrics))
    if path is not None:
        write_atomically(path, json.dumps(metrics, indent=2) + "\n")


def _degradation(args: argparse.Namespace) -> Degradation:
    try:
        return Degradation(down=args.down, up=args.up, blur=args.blur)
    except ValueError as error:
        raise UsageError(f"--down, --up and --blur: {str(error).rstrip('.')}.") from error


def _classify(args: argparse.Namespace, options: dict[str, str]) -> None:
    """Evaluates a classifier on a split of a source."""
    sizes = _cli.probe_sizes(args.resolutions, "--resolutions")
    path = _cli.writable(args.out, "--out") if args.out else None
    if args.path is not None:
        options = {"path": args.path, **options}
    images = _classification.read_source(args.source, options, args.split)
    results = _classification.classify(_cli.load_network(args), images, sizes)
    metrics = {
        **_cli.network_json(args),
        "source": {"name": args.source, **options},
        "split": args.split,
        **results,
    }
    print(_classification.table(metrics))
    if path is not None:
        write_atomically(path, json.dumps(metrics, indent=2) + "\n")
        for file in _classification.write_confusion(metrics, path):
            print(f"confusion matrix drawn in {file}")


def _parser() -> _cli.Parser:
    parser = _cli.Parser(__doc__, _EXAMPLE, command="evaluate")
    _cli.add_network(parser)
    add = parser.add_argument
    add("--source", help="source of images to classify, such as npz, folder, tfds or digits")
    add("--path", help="path of the source, the same as --source.path")
    add("--split", help="split of the source, in the notation of TFDS (default: test)")
    add("--resolutions", help="heights to which the images are reduced, such as full,16,8")
    add("--pairs", help="list of pairs, such as pairs.txt of LFW")
    add("--images", help="folder of the images that --pairs names")
    add("--bin", help="pairs in a pack of insightface, such as lfw.bin")
    add("--scface", help="folder of the aligned images of SCface")
    add("--folder", help="folder of images to identify, with one folder per identity")
    add("--identities", type=int, help="number of identities of --folder (default: 100)")
    add("--seed", type=_cli.seed, help="seed of their choice (default: 0)")
    add("--size", help="HEIGHTxWIDTH of the middle of the images that is used (default: all)")
    add("--probe_sizes", help="heights of reduced probes (default: 8,12,16,20,full)")
    add("--mode", help=f"images that are reduced: {' or '.join(MODES)} (default: hr_lr)")
    add("--protocol", help=f"of verification: {', '.join(PROTOCOLS)} (default: exact)")
    add("--down", help="filter that reduces (default: bicubic)")
    add("--up", help="filter that enlarges again (default: bicubic)")
    add("--blur", type=float, help="blur before the reduction, as in Degradation")
    add("--out", help="JSON file for the results")
    return parser


def _kind(args: argparse.Namespace) -> str:
    """Returns the one set of images that is given; checks that all given options are used."""
    kinds = [name for name in _USES if getattr(args, name)]
    if len(kinds) != 1:
        raise UsageError(
            "Give one of --source, --pairs (with --images), --bin, --scface and --folder."
        )
    unused = set().union(*_USES.values()) - set(_USES[kinds[0]])
    for name in sorted(unused):
        if getattr(args, name) is not None:
            raise UsageError(f"--{name} is not used with --{kinds[0]}: leave it out.")
    return kinds[0]


def _evaluate(
    kind: str,
    args: argparse.Namespace,
    embed: Embedder,
    crop: tuple[int, int] | None,
    sizes: tuple[int | None, ...],
) -> dict[str, Any]:
    """Returns the metrics of a set of images, as JSON."""
    if kind == "pairs":
        return verify(
            embed, read_pairs(args.pairs, args.images, crop), sizes, args.mode, args.protocol
        )
    if kind == "bin":
        return verify(embed, read_bin(args.bin, crop), sizes, args.mode, args.protocol)
    if kind == "scface":
        return identify(embed, read_scface(args.scface, crop))
    return identify(embed, read_gallery(args.folder, crop, args.identities, args.seed), sizes)


def verify(
    embed: Embedder, pairs: FacePairs, sizes: tuple[int | None, ...], mode: str, protocol: str
) -> dict[str, Any]:
    """Verifies pairs at several sizes of the probe; returns JSON."""
    with _of(pairs.name):
        results = lr_verification(embed, pairs, sizes, mode=mode, protocol=protocol)
    return {
        "set": pairs.name,
        "mode": mode,
        "sizes": {_name(size): result.to_json() for size, result in results.items()},
    }


def identify(
    embed: Embedder, faces: FaceGallery, sizes: tuple[int | None, ...] = (None,)
) -> dict[str, Any]:
    """Identifies every set of probes at several sizes; returns JSON."""
    gallery, probes = embed(faces.gallery.images), {}
    ranks = [rank for rank in (1, 5, 10) if rank <= len(gallery)]
    for name, images in faces.probes.items():
        for size in sizes:
            with _of(faces.name):
                metrics = identification(
                    gallery,
                    faces.gallery.labels,
                    embed(images.images, size=size),
                    images.labels,
                    ranks=ranks,
                )
            probes[name if sizes == (None,) else f"{name}, {_name(size)}"] = metrics.to_json()
    return {"set": faces.name, "probes": probes}


@contextlib.contextmanager
def _of(name: str) -> Iterator[None]:
    """Names the set in errors."""
    try:
        yield
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(f"{name} cannot be evaluated: {error}.") from error


def _name(size: int | None) -> str:
    return "full" if size is None else str(size)


def table(metrics: Mapping[str, Any]) -> str:
    """Returns the results as a Markdown table, in percent."""
    if "probes" in metrics:
        ranks = next(iter(metrics["probes"].values()))["cmc"]
        rows = [
            [name, *(f"{100 * share:.2f}" for share in result["cmc"].values())]
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


if __name__ == "__main__":
    sys.exit(main())
