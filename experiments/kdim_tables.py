r"""KDim's Tables 3 to 8 (Wang et al., ICCVW 2019), beside the paper's numbers.

    python experiments/kdim_tables.py --workdir=runs/kdim --config=configs/kdim/lfw.py --small \
        --path=lfw --include=lfw/peopleDevTrain.txt --images=lfw --pairs=lfw/pairsDevTest.txt

For every seed the whole config is run: the teacher of sharp faces, KDim, its L2 variant, KD with
its retrained teacher, and the student alone on degraded and on sharp faces. Then each network
verifies the pairs, whose second image is reduced to 8, 12, 16 and 20 pixels; with `--scface=DIR` it
also identifies SCface's probes. Each seed has its folder in the workdir, and each finished stage
its `verification_PAIRS_PROTOCOL.json`; the same command goes on where a killed one stood.

LFW's development set is 4,138 images of 298 persons, where the paper trains on CASIA-WebFace with
490,623 of 10,572: what can be compared is the order of the methods. With CASIA-WebFace at hand:
`--config=configs/kdim/casia.py --path=faces_webface_112x112 --pairs=lfw/pairs.txt --seeds=0`.

`--small` is for two CPU cores: SphereFace-20 at a quarter and an eighth of its width, 56x48 pixels.
"""

import argparse
import hashlib
import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tables
from etils import epath

from kd_jax import cli, evaluate, report
from kd_jax.data.face_galleries import FaceGallery, read_scface
from kd_jax.data.face_pairs import FacePairs, read_pairs
from kd_jax.embedding import Embedder
from kd_jax.errors import UsageError
from kd_jax.evaluation import PROTOCOLS
from kd_jax.files import folder, write_atomically
from kd_jax.weights import load

SMALL = (
    "teacher=sphereface20,teacher_width=0.25,student=sphereface20,width=0.125,resolution=56"
    ",dtype=float32"
)
SIZES = (8, 12, 16, 20, None)
COLUMNS = ("8", "12", "16", "20", "full")
DISTANCES = ("4.2m", "2.6m", "1.0m")
STAGES = {
    "teacher": "teacher, sharp",
    "alone_hr": "student alone, sharp",
    "alone_lr": "student alone, degraded",
    "teacher_lr": "teacher retrained, degraded",
    "kd": "KD, teacher retrained",
    "l2": "L2 variant, eq. 6",
    "kdim": "KDim, eq. 9",
}
"""The networks by stage; the first two see low resolutions for the first time in the test."""

PAPER = {
    "teacher": ("-", "-", "-", "-", "99.42"),
    "kd": ("93.95", "95.08", "97.00", "97.10", "99.17"),
    "l2": ("90.36", "91.75", "94.66", "96.83", "99.00"),
    "kdim": ("94.05", "95.20", "96.74", "97.13", "99.03"),
}
"""Tables 4 and 6: accuracy on LR-LFW in per cent, by size of the probe."""

PAPER_SCFACE = {
    "teacher": ("-", "-", "99.13"),
    "kd": ("73.88", "93.50", "98.34"),
    "l2": ("69.37", "91.54", "97.98"),
    "kdim": ("73.20", "93.95", "98.03"),
}
"""Tables 5, 7 and 8: rank-1 rate on SCface in per cent, by distance."""

Found = Mapping[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return cli.command(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> None:
    parser = tables.Parser(__doc__)
    parser.add_argument("--config", default="configs/kdim/lfw.py", help="FILE.py[:ARGUMENT]")
    parser.add_argument("--small", action="store_true", help="small networks, for a CPU")
    parser.add_argument("--path", help="of the training images (default: the config's)")
    parser.add_argument("--include", help="list of the identities that are trained on")
    parser.add_argument("--pairs", required=True, help="list of pairs, such as LFW's")
    parser.add_argument("--images", required=True, help="folder of the images of --pairs")
    parser.add_argument("--scface", help="folder of SCface's aligned images")
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated (default: %(default)s)")
    parser.add_argument("--protocol", default="exact", help="of verification")
    args = parser.parse_args(argv)
    seeds, config = tables.seeds(args.seeds), _config(args)
    if args.protocol not in PROTOCOLS:
        known = ", ".join(PROTOCOLS)
        raise UsageError(f"--protocol={args.protocol} is unknown: choose one of {known}.")
    crop = config["data"]["source"].get("size")
    pairs = read_pairs(args.pairs, args.images, crop)
    scface = read_scface(args.scface, crop) if args.scface else None

    runs, results, scfaces = {}, {}, {}
    for seed in seeds:
        place = folder(args.workdir) / f"seed_{seed}"
        runs[seed] = tables.summary(config | {"seed": seed}, place)
        results[seed] = {stage: _verified(place / stage, pairs, args.protocol) for stage in STAGES}
        if scface is not None:
            scfaces[seed] = {stage: _identified(place / stage, scface) for stage in STAGES}
    text = report_text(runs, results, scfaces, args)
    tables.write(text, args.workdir)
    print(text)


def _config(args: argparse.Namespace) -> dict[str, Any]:
    path, _, argument = args.config.partition(":")
    arguments = ("baselines=true", SMALL if args.small else "", argument)
    config = tables.load_config(f"{path}:{','.join(filter(None, arguments))}")
    if missing := [stage for stage in STAGES if stage not in config.stages]:
        raise UsageError(f"--config={args.config} has no stage {missing[0]!r}: name one of KDim's.")
    for key in ("path", "include"):
        if getattr(args, key):
            config.data.source[key] = getattr(args, key)
    return config.to_dict()


def _kept(path: epath.Path, data: str, make: Callable[[], Found]) -> Found:
    """What a file holds, if it was made of the same data; else it is made."""
    if path.exists():
        found = json.loads(path.read_text())
        if found["data"] == data:
            return found
    found = {**make(), "data": data}
    write_atomically(path, json.dumps(found, indent=2) + "\n")
    return found


def _fingerprint(*arrays: np.ndarray) -> str:
    """Hash of the images and lists of a test."""
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update(f"{array.shape} {array.dtype}".encode())
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()


def _verified(stage: epath.Path, pairs: FacePairs, protocol: str) -> Found:
    def make():
        return evaluate.verify(Embedder(load(stage)), pairs, SIZES, "hr_lr", protocol)

    data = _fingerprint(pairs.images, pairs.first, pairs.second, pairs.same, pairs.fold)
    return _kept(stage / f"verification_{pairs.name}_{protocol}.json", data, make)


def _identified(stage: epath.Path, scface: FaceGallery) -> Found:
    sets = (scface.gallery, *scface.probes.values())
    data = _fingerprint(*(array for one in sets for array in (one.images, one.labels)))
    return _kept(
        stage / "scface.json", data, lambda: evaluate.identify(Embedder(load(stage)), scface)
    )


def report_text(
    runs: Mapping[int, Found],
    results: Mapping[int, Mapping[str, Found]],
    scfaces: Mapping[int, Mapping[str, Found]],
    args: argparse.Namespace,
) -> str:
    """All tables as Markdown.

    Args:
        runs: summary of the run of every seed.
        results: verification by seed and stage.
        scfaces: identification by seed and stage, if SCface is there.
        args: of the command line.
    """
    seeds, device = list(runs), next(iter(runs.values()))["device"]
    name = next(iter(results[seeds[0]].values()))["set"]
    parts = [
        f"LR verification of {name} (Tables 4 and 6), accuracy in per cent by size of the probe;"
        f" beside it the paper's, trained on CASIA-WebFace.\n\n{_accuracies(results, seeds)}",
        f"What the students gain over the student alone on degraded faces, paired by seed:\n\n"
        f"{_gains(results, seeds)}",
    ]
    if scfaces:
        parts.append(f"SCface (Tables 5, 7 and 8), rank-1 in per cent:\n\n{_ranks(scfaces, seeds)}")
    parts.append(f"Seconds of training (Table 3: 2.5 days against 0.5):\n\n{_seconds(runs, seeds)}")
    parts.append(
        f"Seeds {', '.join(map(str, seeds))}; {device['count']} x {device['kind']}"
        f" ({device['platform']}); config {_named(args)}; protocol {args.protocol}, probes reduced"
        " by Pillow's bicubic filter and brought back."
    )
    return "\n\n".join(parts)


def _named(args: argparse.Namespace) -> str:
    """The config without the folders above it."""
    path, colon, argument = args.config.partition(":")
    name = f"{Path(path).parent.name}/{Path(path).name}{colon}{argument}"
    return f"{name} with --small" if args.small else name


def _accuracies(results, seeds: Sequence[int]) -> str:
    rows = []
    for stage, words in STAGES.items():
        ours = [
            tables.mean_and_deviation([results[s][stage]["sizes"][c]["accuracy"] for s in seeds])
            for c in COLUMNS
        ]
        rows.append([words, *ours, " / ".join(PAPER.get(stage, "-"))])
    return report.markdown(("network", *COLUMNS, "paper"), rows)


def _gains(results, seeds: Sequence[int]) -> str:
    rows = []
    for stage in ("kd", "l2", "kdim"):
        gains = [
            [
                results[s][stage]["sizes"][c]["accuracy"]
                - results[s]["alone_lr"]["sizes"][c]["accuracy"]
                for s in seeds
            ]
            for c in COLUMNS
        ]
        rows.append([STAGES[stage], *map(tables.mean_and_deviation, gains)])
    return report.markdown(("student", *COLUMNS), rows)


def _ranks(scfaces, seeds: Sequence[int]) -> str:
    rows = []
    for stage, words in STAGES.items():
        ours = [
            tables.mean_and_deviation([scfaces[s][stage]["probes"][d]["cmc"]["1"] for s in seeds])
            for d in DISTANCES
        ]
        rows.append([words, *ours, " / ".join(PAPER_SCFACE.get(stage, "-"))])
    return report.markdown(("network", *DISTANCES, "paper"), rows)


def _seconds(runs: Mapping[int, Found], seeds: Sequence[int]) -> str:
    def mean(*stages: str) -> float:
        return statistics.mean(
            sum(stage["seconds"] for stage in runs[s]["stages"] if stage["name"] in stages)
            for s in seeds
        )

    kd, kdim = mean("teacher_lr", "kd"), mean("kdim")
    rows = [
        ["KD: teacher retrained, then the student", f"{kd:.0f}"],
        ["KDim: the student only", f"{kdim:.0f}"],
        ["ratio (the paper: 5)", f"{kd / kdim:.2f}"],
    ]
    return report.markdown(("scheme", "seconds"), rows)


if __name__ == "__main__":
    sys.exit(main())
