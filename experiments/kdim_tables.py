r"""KDim's Tables 3 to 8 (Wang et al., ICCVW 2019), next to the paper's numbers.

    python experiments/kdim_tables.py --workdir=runs/kdim --config=kdim/lfw --small \
        --path=lfw --include=lfw/peopleDevTrain.txt --images=lfw --pairs=lfw/pairsDevTest.txt

The whole config is run for every seed: the teacher of sharp faces, KDim, its L2 variant, KD with
its retrained teacher, and the student alone on degraded and on sharp faces. Then each network
verifies the pairs, whose second image is blurred and reduced to 8, 12, 16 and 20 pixels, as the
training images are. The paper uses no mirror images: the protocol is `plain`. With
`--scface=FOLDER` each network also identifies the probes of SCface. Without it, Table 8 has only
the published rows. Each seed has a folder in the workdir, and each finished stage has a file
`verification_PAIRS_PROTOCOL.json`. The same command resumes after an interruption.

LFW's development set is 4,138 images of 298 persons, where the paper trains on CASIA-WebFace with
490,623 images of 10,572 persons: only the order of the methods can be compared. With CASIA-WebFace:
`--config=kdim/casia --path=faces_webface_112x112 --pairs=lfw/pairs.txt --seeds=0`.

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
from etils import epath

from kd_jax.commands import Parser, _faces, exit_code
from kd_jax.core.errors import UsageError, check_choice
from kd_jax.core.files import absolute_path, write_atomically
from kd_jax.core.text import markdown
from kd_jax.data.preprocessing import Degradation
from kd_jax.evaluation.faces import PROTOCOLS, FaceGallery, FacePairs, read_pairs, read_scface
from kd_jax.experiment import tables
from kd_jax.experiment.config_files import load_config
from kd_jax.pretrained import Embedder, load

EXAMPLE = (
    "python experiments/kdim_tables.py --workdir=runs/kdim --path=lfw --images=lfw"
    " --pairs=lfw/pairsDevTest.txt"
)
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
"""The networks by stage. The first two see low resolutions only in the test."""

PAPER = {
    "teacher": ("-", "-", "-", "-", "99.42"),
    "kd": ("93.95", "95.08", "97.00", "97.10", "99.17"),
    "l2": ("90.36", "91.75", "94.66", "96.83", "99.00"),
    "kdim": ("94.05", "95.20", "96.74", "97.13", "99.03"),
}
"""Tables 4 and 6: accuracy on LR-LFW in percent, by size of the probe."""

PAPER_SCFACE = {
    "teacher": ("-", "-", "99.13"),
    "kd": ("73.88", "93.50", "98.34"),
    "l2": ("69.37", "91.54", "97.98"),
    "kdim": ("73.20", "93.95", "98.03"),
}
"""Tables 5, 7 and 8: rank-1 rate on SCface in percent, by distance."""

PUBLISHED = {
    "DCR, Lu et al., 2018": ("73.30", "93.50", "98.00"),
    "DMDS, Yang et al., 2018": ("62.70", "70.70", "65.50"),
    "MDS, Mudunuri and Biswas, 2016": ("60.30", "66.00", "69.50"),
}
"""Table 8: methods of other papers."""

Json = Mapping[str, Any]
Results = Mapping[int, Mapping[str, Json]]
"""Metrics by seed and stage."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return exit_code(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> None:
    parser = Parser(__doc__ or "", EXAMPLE)
    parser.add_argument("--workdir", help="folder of the runs and of table.md")
    parser.add_argument("--config", default="kdim/lfw", help="config (default: %(default)s)")
    parser.add_argument("--small", action="store_true", help="use small networks, for a CPU")
    parser.add_argument("--path", help="path of the training images (default: the config's)")
    parser.add_argument("--include", help="list of the identities to train on")
    parser.add_argument("--pairs", help="list of pairs, such as LFW's")
    parser.add_argument("--images", help="folder of the images of --pairs")
    parser.add_argument("--scface", help="folder of SCface's aligned images")
    parser.add_argument("--seeds", default="0,1,2", help="seeds (default: %(default)s)")
    parser.add_argument("--protocol", default="plain", help="of verification (default: plain)")
    args = parser.parse(argv)
    parser.require(args, "workdir", "pairs", "images")
    seeds, config = tables.seeds(args.seeds), _config(args)
    check_choice(args.protocol, PROTOCOLS, "--protocol")
    crop = config["data"]["source"].get("size")
    pairs = read_pairs(args.pairs, args.images, crop)
    scface = read_scface(args.scface, crop) if args.scface else None
    filters = _filters(config)

    runs: dict[int, Json] = {}
    verified: dict[int, dict[str, Json]] = {}
    identified: dict[int, dict[str, Json]] = {}
    for seed in seeds:
        folder = absolute_path(args.workdir) / f"seed_{seed}"
        runs[seed] = tables.summary(config | {"seed": seed}, folder)
        verified[seed] = {
            name: _verified(folder / name, pairs, args.protocol, filters) for name in STAGES
        }
        if scface is not None:
            identified[seed] = {name: _identified(folder / name, scface) for name in STAGES}
    text = report_text(runs, verified, identified, filters, args)
    tables.write(text, args.workdir)
    print(text)


def _config(args: argparse.Namespace) -> dict[str, Any]:
    name, _, argument = args.config.partition(":")
    arguments = ("baselines=true", SMALL if args.small else "", argument)
    config = load_config(f"{name}:{','.join(filter(None, arguments))}")
    if missing := [stage for stage in STAGES if stage not in config.stages]:
        raise UsageError(
            f"--config={args.config} has no stage {missing[0]!r}: choose a config of KDim."
        )
    for key in ("path", "include"):
        if getattr(args, key):
            config.data.source[key] = getattr(args, key)
    return config.to_dict()


def _filters(config: Mapping[str, Any]) -> Degradation:
    """Returns the degradation of the probes, which is that of KDim's training images."""
    options = config["stages"]["kdim"]["networks"]["student"]["degradation"]
    used = ("keep_aspect", "blur", "down", "up")
    return Degradation(**{name: options[name] for name in used if name in options})


# ------------------------------------------------------------------------------- evaluation


def _stored(path: epath.Path, data: str, make: Callable[[], Json]) -> Json:
    """Returns the content of a JSON file if it belongs to the same data; else makes it."""
    if path.exists():
        found = json.loads(path.read_text())
        if found["data"] == data:
            return found
    found = {**make(), "data": data}
    write_atomically(path, json.dumps(found, indent=2) + "\n")
    return found


def _fingerprint(*arrays: np.ndarray) -> str:
    """Returns a hash of the images and lists of a test."""
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update(f"{array.shape} {array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _verified(stage: epath.Path, pairs: FacePairs, protocol: str, filters: Degradation) -> Json:
    def make() -> Json:
        embed = Embedder(load(stage), degradation=filters)
        return _faces.verify(embed, pairs, SIZES, "hr_lr", protocol)

    images = _fingerprint(pairs.images, pairs.first, pairs.second, pairs.same, pairs.fold)
    data = f"{images} {_words(filters)}"
    return _stored(stage / f"verification_{pairs.name}_{protocol}.json", data, make)


def _identified(stage: epath.Path, scface: FaceGallery) -> Json:
    sets = (scface.gallery, *scface.probes.values())
    data = _fingerprint(*(array for one in sets for array in (one.images, one.labels)))
    path = stage / "scface.json"
    return _stored(path, data, lambda: _faces.identify(Embedder(load(stage)), scface))


# ------------------------------------------------------------------------------------ tables


def report_text(
    runs: Mapping[int, Json],
    verified: Results,
    identified: Results,
    filters: Degradation,
    args: argparse.Namespace,
) -> str:
    """Returns all tables as Markdown.

    Args:
        runs: summary of the run of every seed.
        verified: verification by seed and stage.
        identified: identification by seed and stage; empty without SCface.
        filters: degradation of the probes.
        args: options of the command line.
    """
    seeds, device = list(runs), next(iter(runs.values()))["device"]
    name = next(iter(verified[seeds[0]].values()))["set"]

    def accuracy(seed: int, stage: str, size: str) -> float:
        return verified[seed][stage]["sizes"][size]["accuracy"]

    def rank_1(seed: int, stage: str, distance: str) -> float:
        return identified[seed][stage]["probes"][distance]["cmc"]["1"]

    scface = _rates(DISTANCES, PAPER_SCFACE, rank_1 if identified else None, seeds, PUBLISHED)
    parts = [
        f"LR verification of {name} (Tables 4 and 6), accuracy in percent by size of the probe,"
        " mean ± standard deviation; the paper trains on CASIA-WebFace.\n\n"
        + _rates(COLUMNS, PAPER, accuracy, seeds),
        "Gain of the students over the student alone on degraded faces, paired by seed, mean ±"
        f" standard error:\n\n{_gains(verified, seeds)}",
        f"SCface (Tables 5, 7 and 8), rank-1 rate in percent by distance:\n\n{scface}",
        f"Seconds of training (Table 3: 2.5 and 0.5 days):\n\n{_seconds(runs, seeds)}",
        f"Seeds {', '.join(map(str, seeds))}; {device['count']} x {device['kind']}"
        f" ({device['platform']}); config {_config_name(args)}; protocol {args.protocol}; probes:"
        f" {_words(filters)}.",
    ]
    return "\n\n".join(parts)


def _config_name(args: argparse.Namespace) -> str:
    """Returns the config without the folders above it."""
    path, colon, argument = args.config.partition(":")
    name = f"{Path(path).parent.name}/{Path(path).name}{colon}{argument}"
    return f"{name} with --small" if args.small else name


def _rates(
    columns: Sequence[str],
    paper: Mapping[str, Sequence[str]],
    rate: Callable[[int, str, str], float] | None,
    seeds: Sequence[int],
    others: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """Returns a table of all networks, and of the methods of other papers.

    `rate` gives our number by seed, stage and column; None if nothing has been measured.
    """
    rows = []
    for stage, words in STAGES.items():
        ours = ["-"] * len(columns)
        if rate is not None:
            ours = [tables.mean_and_std([rate(s, stage, c) for s in seeds]) for c in columns]
        rows.append([words, *ours, " / ".join(paper.get(stage, "-"))])
    rows += [[name, *"-" * len(columns), " / ".join(x)] for name, x in (others or {}).items()]
    return markdown(("network", *columns, "paper"), rows)


def _words(filters: Degradation) -> str:
    return f"blur {filters.blur:g}, down {filters.down}, up {filters.up}"


def _gains(verified: Results, seeds: Sequence[int]) -> str:
    def accuracies(stage: str, column: str) -> list[float]:
        return [verified[s][stage]["sizes"][column]["accuracy"] for s in seeds]

    rows = []
    for stage in ("kd", "l2", "kdim"):
        gains = [tables.gain(accuracies(stage, c), accuracies("alone_lr", c)) for c in COLUMNS]
        rows.append([STAGES[stage], *gains])
    return markdown(("student", *COLUMNS), rows)


def _seconds(runs: Mapping[int, Json], seeds: Sequence[int]) -> str:
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
    return markdown(("training", "seconds"), rows)


if __name__ == "__main__":
    sys.exit(main())
