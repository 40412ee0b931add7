r"""Compares finished runs: results with their noise, curves, and differences of the configs.

    kd-jax compare runs/kd runs/horkd
    kd-jax compare runs/seeds --output=runs/comparison

RUN is the folder of a run, or a folder of runs, such as that of a sweep. Runs whose configs differ
by the seed only are one row, with mean and standard deviation. Differences are measured from the
first run, or from `--baseline`; a difference within noise is named so.

`--output` is a folder for `compare.md` and for `compare.html`, one page with the curves, which
needs no network.
"""

import sys
from collections.abc import Sequence

from kd_jax.commands import _cli
from kd_jax.core.errors import UsageError, check_choice

_EXAMPLE = "kd-jax compare runs/kd runs/horkd"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return _cli.exit_code(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> None:
    parser = _cli.Parser(__doc__, _EXAMPLE, command="compare")
    add = parser.add_argument
    add("runs", nargs="*", metavar="RUN", help="folder of a run, or a folder of runs")
    add("--baseline", help="name of the run from which differences are measured (default: first)")
    add("--stages", help="names of the stages to show, separated by commas (default: all)")
    add("--metric", help="metric to compare, such as validation/accuracy (default: the results)")
    add("--output", help="folder for compare.html and compare.md")
    args = parser.parse(argv)
    if not args.runs:
        raise UsageError(f"RUN is missing: type for example `{_EXAMPLE}`.")
    from kd_jax.core.files import output_folder, write_file
    from kd_jax.experiment import compare
    from kd_jax.experiment.report_html.compare_page import compare_page

    folder = None if args.output is None else output_folder(args.output, "--output")
    runs = compare.read_runs(args.runs, args.metric)
    if args.stages is not None:
        known = {name for run in runs for name in run.stages}
        names = [check_choice(name, known, "--stages") for name in args.stages.split(",")]
        runs = compare.with_stages(runs, names)
    groups = compare.grouped(runs)
    base = groups[0] if args.baseline is None else compare.group_of(groups, args.baseline)
    text = compare.text(groups, base)
    print(text)
    if folder is not None:
        page = compare_page(groups, base)
        write_file(folder / "compare.md", f"{text}\n", make_folder=True)
        write_file(folder / "compare.html", page)
        print(f"\ncompare.html and compare.md are in {args.output}")


if __name__ == "__main__":
    sys.exit(main())
