"""Evaluates a trained network: classification, retrieval, verification or identification.

    kd-jax evaluate --network=runs/quickstart/student --source=digits --resolutions=full,4
    kd-jax evaluate --network=runs/mine/student --source=npz --path='flowers_{split}.npz'
    N=runs/kdim_lfw/kdim
    kd-jax evaluate --network=$N --size=112x96 --pairs=lfw/pairs.txt --images=lfw
    kd-jax evaluate --network=$N --size=112x96 --bin=lfw.bin --protocol=insightface
    kd-jax evaluate --network=$N --size=112x96 --scface=scface_112x112
    kd-jax evaluate --network=$N --size=112x96 --folder=lfw --identities=180
    kd-jax evaluate --network=runs/birds/student --retrieval=birds --metrics=recall,map_at_r
    kd-jax evaluate --network=runs/birds/student --retrieval=birds --resolutions=full,32

Classification (`--source`) reads a split of any source of images; `--source.KEY=VALUE` sets the
options of the source. It reports accuracy, top-5 accuracy, accuracy per class and the confusion
matrix, for images reduced to each of `--resolutions`. With `--out=FILE.json` the confusion matrices
are drawn next to the file.

Retrieval (`--retrieval`) reads a folder with one folder per class, such as one of classes that no
training saw. The images may have any size: each is scaled until it covers `--fit`, and its center
is cut out. Each image queries all others, or all images of a second folder, `--gallery`. The
queries are reduced to each of `--resolutions` against a gallery at full resolution;
`--mode=lr_lr` reduces both. `--gallery_network` embeds the gallery by another network, such as the
teacher.

Images of faces must be aligned. `--size` is the part in their middle that is used, as in training:
112x96 of 112x112 for KDim's networks. The network sees them at its own resolution. The second image
of every pair, the probe, is blurred, reduced to each of `--probe_sizes` and enlarged again;
`--mode=lr_lr` reduces both images. `--blur=0` leaves the blur out, `--down=none` only blurs.
`--protocol=plain` uses no mirror images, as in KDim. `--threshold` is set beforehand, as in HORKD;
`--threshold_pairs` is a list of other pairs, whose best threshold is used. Without them the
threshold is chosen by cross-validation.

The probes of SCface are small already. A folder has one folder per identity: random identities are
chosen, one image of each is the gallery, and the others are the probes. With `--probe_fraction=0.2`
four fifths of the images of each identity are the gallery. `--out=FILE.json` stores every number
with its protocol and filters.
"""

import argparse
import json
import sys
from collections.abc import Sequence

from kd_jax.commands import _classification, _cli, _faces, _retrieval
from kd_jax.core.errors import UsageError, check_choice
from kd_jax.core.files import output_file, write_file
from kd_jax.data.preprocessing import Degradation
from kd_jax.evaluation.faces import MODES, PROTOCOLS
from kd_jax.evaluation.faces.protocols import uncentered
from kd_jax.evaluation.identification import RANKED
from kd_jax.evaluation.retrieval import METRICS
from kd_jax.pretrained import Embedder

_EXAMPLE = (
    "kd-jax evaluate --network=runs/kdim_lfw/kdim --size=112x96 --pairs=lfw/pairs.txt --images=lfw"
)

_FILTERS = ("down", "up", "blur")
_VERIFICATION = (*_FILTERS, "size", "mode", "protocol", "threshold", "threshold_pairs")
_USES: dict[str, tuple[str, ...]] = {
    "source": ("path", "split", "resolutions"),
    "pairs": (*_VERIFICATION, "images", "probe_sizes"),
    "bin": (*_VERIFICATION, "probe_sizes"),
    "scface": ("size",),
    "retrieval": (
        *(*_FILTERS, "fit", "gallery", "gallery_network", "gallery_role"),
        *("resolutions", "mode", "ks", "metrics", "seed"),
    ),
    "folder": (
        *(*_FILTERS, "size", "probe_sizes"),
        *("identities", "min_images", "seed", "probe_fraction", "ranked"),
    ),
}
"""The sets of images, and the options that each uses in addition to the common ones."""

_DEFAULTS = {
    "split": "test",
    "resolutions": "full",
    "down": Degradation.down,
    "up": Degradation.up,
    "blur": Degradation.blur,
    "identities": 100,
    "min_images": 1,
    "seed": 0,
    "probe_fraction": 0.0,
    "ranked": "images",
    "probe_sizes": "8,12,16,20,full",
    "mode": "hr_lr",
    "protocol": "exact",
    "metrics": "recall",
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
    if kind == "retrieval":
        _retrieve(args)
        return
    crop, sizes = _cli.height_and_width(args.size), _cli.probe_sizes(args.probe_sizes)
    check_choice(args.mode, MODES, "--mode")
    check_choice(args.protocol, PROTOCOLS, "--protocol")
    check_choice(args.ranked, RANKED, "--ranked")
    if not 0 <= args.probe_fraction < 1:
        raise UsageError("--probe_fraction must be 0 or more, and less than 1.")
    path = output_file(args.out, "--out") if args.out else None
    if kind == "pairs":
        parser.require(args, "images")
    _check_threshold(args)
    degradation = _degradation(args)  # its error comes before the network is read
    embed = Embedder(_cli.load_network(args), degradation=degradation)
    options = {name: getattr(args, name) for name in (kind, *_USES[kind])}
    metrics = {
        **_cli.network_json(args),
        **{name: value for name, value in options.items() if name not in _FILTERS},
        "degradation": {name: options[name] for name in _FILTERS if name in options},
        **_faces.evaluate(kind, args, embed, crop, sizes),
    }
    print(_faces.table(metrics))
    if path is not None:
        write_file(path, json.dumps(metrics, indent=2) + "\n", make_folder=True)


def _check_threshold(args: argparse.Namespace) -> None:
    """Raises `UsageError` if the threshold is given twice, or the protocol allows none."""
    if args.threshold is not None and args.threshold_pairs is not None:
        raise UsageError("--threshold and --threshold_pairs both set the threshold: omit one.")
    if args.threshold is not None or args.threshold_pairs is not None:
        uncentered(args.protocol)


def _degradation(args: argparse.Namespace) -> Degradation:
    try:
        return Degradation(down=args.down, up=args.up, blur=args.blur)
    except ValueError as error:
        raise UsageError(f"--down, --up and --blur: {str(error).rstrip('.')}.") from error


def _classify(args: argparse.Namespace, options: dict[str, str]) -> None:
    """Evaluates a classifier on a split of a source."""
    sizes = _cli.probe_sizes(args.resolutions, "--resolutions")
    path = output_file(args.out, "--out") if args.out else None
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
        write_file(path, json.dumps(metrics, indent=2) + "\n", make_folder=True)
        for file in _classification.write_confusion(metrics, path):
            print(f"confusion matrix drawn in {file}")


def _retrieve(args: argparse.Namespace) -> None:
    """Evaluates retrieval in folders of classes."""
    sizes = _cli.probe_sizes(args.resolutions, "--resolutions")
    check_choice(args.mode, MODES, "--mode")
    for name in args.metrics.split(","):
        check_choice(name, METRICS, "--metrics")
    path = output_file(args.out, "--out") if args.out else None
    options = {name: getattr(args, name) for name in ("retrieval", *_USES["retrieval"])}
    metrics = {
        **_cli.network_json(args),
        **{name: value for name, value in options.items() if name not in _FILTERS},
        "degradation": {name: options[name] for name in _FILTERS},
        **_retrieval.evaluate(args, _degradation(args), sizes),
    }
    print(_retrieval.table(metrics))
    if path is not None:
        write_file(path, json.dumps(metrics, indent=2) + "\n", make_folder=True)


def _parser() -> _cli.Parser:
    parser = _cli.Parser(__doc__, _EXAMPLE, command="evaluate")
    _cli.add_network(parser)
    add = parser.add_argument
    add("--source", help="source of images to classify, such as npz, folder, tfds or digits")
    add("--path", help="path of the source, the same as --source.path")
    add("--split", help="split of the source, in the notation of TFDS (default: test)")
    add("--resolutions", help="heights to which the images are reduced, such as full,16,8")
    add("--retrieval", help="folder of images that query each other, with one folder per class")
    add("--gallery", help="folder in which they search instead, with one folder per class")
    _retrieval.add_gallery_network(parser)
    add("--ks", help="values of K of Recall@K (default: 1,2,4,8)")
    add("--metrics", help=f"of retrieval: {', '.join(METRICS)} (default: recall)")
    add("--pairs", help="list of pairs, such as pairs.txt of LFW")
    add("--images", help="folder of the images that --pairs names")
    add("--bin", help="pairs in a pack of insightface, such as lfw.bin")
    add("--scface", help="folder of the aligned images of SCface")
    add("--folder", help="folder of images to identify, with one folder per identity")
    add("--identities", type=_cli.count, help="number of identities of --folder (default: 100)")
    add("--min_images", type=_cli.count, help="smallest number of images of each (default: 1)")
    add(
        "--seed",
        type=_cli.seed,
        help="seed of their choice, or of the clusters of nmi (default: 0)",
    )
    add("--probe_fraction", type=_cli.number, help="fraction of their images that are probes")
    add("--ranked", help=f"objects that a rank counts: {' or '.join(RANKED)} (default: images)")
    add("--size", help="HEIGHTxWIDTH of the middle of the images that is used (default: all)")
    add("--probe_sizes", help="heights of reduced probes (default: 8,12,16,20,full)")
    add("--mode", help=f"images that are reduced: {' or '.join(MODES)} (default: hr_lr)")
    add("--protocol", help=f"of verification: {', '.join(PROTOCOLS)} (default: exact)")
    add("--threshold", type=_cli.number, help="threshold that is set beforehand")
    add("--threshold_pairs", help="other pairs, whose best threshold is used")
    add(
        "--blur",
        type=_cli.number,
        help="blur before the reduction, as in Degradation (default: 0.5)",
    )
    add("--down", help="filter that reduces, or none (default: bicubic)")
    add("--up", help="filter that enlarges again (default: bicubic)")
    add("--out", help="JSON file for the results")
    return parser


def _kind(args: argparse.Namespace) -> str:
    """Returns the one set of images that is given; checks that all given options are used."""
    kinds = [name for name in _USES if getattr(args, name)]
    if len(kinds) != 1:
        raise UsageError(
            "Give one of --source, --pairs (with --images), --bin, --scface, --folder and"
            " --retrieval."
        )
    unused = set().union(*_USES.values()) - set(_USES[kinds[0]])
    for name in sorted(unused):
        if getattr(args, name) is not None:
            raise UsageError(f"--{name} is not used with --{kinds[0]}: leave it out.")
    return kinds[0]


if __name__ == "__main__":
    sys.exit(main())
