r"""HORKD's Fig. 4 (Ge et al., AAAI 2020): which orders of relations help, in any combination.

    python experiments/horkd_ablation.py --workdir=runs/horkd_ablation

Cross-structure distillation (the stage `assistant` of a config) with each combination of L1, L2, L3
and L_C, each beside the cross-entropy that the paper always adds, and cross-entropy alone. The
paper shows Fig. 4 as an image without numbers, on faces that are not public (UMDFaces, UCCS); its
text says that more orders are better, that of equally many terms the higher orders are better, and
that the best of all is L2 + L3 + L_C rather than all four. The weights are the paper's.

The default is the quickstart's digits: 4 minutes a seed on two shared CPU cores. All orders reach
99.2 to 100 % there, where one test image is 0.28 %, so that it shows how the experiment runs rather
than which order is best; `--train_split=train[:10%]` leaves them more to learn. On CIFAR-100:

    python experiments/horkd_ablation.py --workdir=runs/horkd_ablation_cifar100 --seeds=0 \
        --config=configs/horkd/cifar100.py:student=resnet18,resolution=32

Each seed has a teacher of its own, which all combinations share, so that their differences within a
seed are those of the method. The same command goes on where a killed one stood.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import tables

from kd_jax import cli, report
from kd_jax.files import folder

TEACHER, STAGE, BASELINE = "teacher", "assistant", "CE"
TERMS = {
    "L1": ("feature_weight", 1.0),
    "L2": ("pair_weight", 0.02),
    "L3": ("triplet_weight", 0.01),
    "LC": ("center_weight", 1.0),
}
ORDERS = (
    *(BASELINE, "L1", "L2", "L3", "LC"),
    *("L1+L2", "L2+L3", "L1+L2+L3", "L2+L3+LC", "L1+L2+L3+LC"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return cli.command(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> None:
    parser = tables.Parser(__doc__)
    parser.add_argument(
        "--config",
        default="configs/quickstart.py",
        help="FILE.py[:ARGUMENT] with the stages `teacher` and `assistant`",
    )
    parser.add_argument("--data_dir", help="where TFDS keeps the config's set")
    parser.add_argument("--train_split", help="such as train[:10%%] (default: the config's)")
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated (default: %(default)s)")
    parser.add_argument("--orders", default=",".join(ORDERS), help="such as CE,L2+LC")
    for term, (name, value) in TERMS.items():
        weight = f"weight of {term} (default: %(default)s)"
        parser.add_argument(f"--{name}", type=float, default=value, help=weight)
    parser.add_argument("--smoke", action="store_true", help="as short as possible, to try it out")
    args = parser.parse_args(argv)
    for order in args.orders.split(","):
        tables.choices(order.replace("+", ","), [BASELINE, *TERMS], "--orders")
    seeds = tables.seeds(args.seeds)

    results: dict[str, list[tables.Result]] = {}
    for seed in seeds:
        place, config = folder(args.workdir) / f"seed_{seed}", _config(seed, args)
        teacher = tables.run(tables.one_stage(config, TEACHER), place / TEACHER)
        results.setdefault(TEACHER, []).append(teacher)
        for order in args.orders.split(","):
            alone = order == BASELINE
            values = tables.one_stage(
                config,
                STAGE,
                teacher=None if alone else teacher.folder,
                method={"name": "supervised"} if alone else method(order, vars(args)),
            )
            results.setdefault(order, []).append(tables.run(values, place / order))
            tables.write(table(results, args, seeds), args.workdir)
    print(table(results, args, seeds))


def _config(seed: int, args: argparse.Namespace):
    reference = args.config
    if args.smoke:
        reference += ",smoke" if ":" in reference else ":smoke"
    config = tables.load_config(reference)
    config.seed = seed
    if args.train_split:
        config.data.train_split = args.train_split
    if args.data_dir:
        config.data.source.data_dir = args.data_dir
    return config


def method(order: str, weights: Mapping[str, float]) -> dict[str, Any]:
    """The method of a combination such as `L2+LC`: the other terms weigh nothing."""
    terms = order.split("+")
    return {
        "name": "hybrid_order",
        **{name: weights[name] if term in terms else 0.0 for term, (name, _) in TERMS.items()},
    }


def table(
    results: Mapping[str, Sequence[tables.Result]], args: argparse.Namespace, seeds: Sequence[int]
) -> str:
    """The table as Markdown, with what it was measured on."""
    baseline = [found.accuracy for found in results.get(BASELINE, ())]
    rows, devices = [], set()
    for order, found in results.items():
        accuracies = [each.accuracy for each in found]
        # paired: the runs of one seed share their teacher, first weights and order of the images
        gains = [a - b for a, b in zip(accuracies, baseline, strict=False)]
        is_gain = gains and order not in (TEACHER, BASELINE)
        rows.append(
            [
                "teacher" if order == TEACHER else order.replace("+", " + "),
                found[0].network,
                tables.mean_and_deviation(accuracies),
                tables.mean_and_deviation(gains) if is_gain else "-",
                f"{sum(each.seconds for each in found) / len(found):.0f}",
            ]
        )
        devices |= {each.device for each in found}
    columns = ("orders", "network", "accuracy [%]", f"above {BASELINE}", "seconds")
    weights = ", ".join(f"{term} {getattr(args, name):g}" for term, (name, _) in TERMS.items())
    return (
        f"{report.markdown(columns, rows, left=2)}\n\n"
        f"Top-1 on the test images after the last epoch of {args.config}, mean ± standard"
        f" deviation over the seeds {', '.join(map(str, seeds))}, {', '.join(sorted(devices))}."
        f"\n{BASELINE}: cross-entropy alone; it is part of every row. Weights: {weights}. The"
        " paper's Fig. 4 prints no numbers; its best is L2 + L3 + LC."
    )


if __name__ == "__main__":
    sys.exit(main())
