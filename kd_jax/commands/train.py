r"""Trains the stages of a config, or resumes a stopped run.

    kd-jax train --config=quickstart --workdir=runs/quickstart
    kd-jax train --config=configs/horkd/cifar100.py:student=vgg11 --workdir=runs/horkd \
        --config.data.batch_size=128

`--config=FILE:ARGUMENT` passes an argument to the config file. FILE is a path, or the name of a
config that comes with the package. `--config.KEY=VALUE` sets any key of the configuration.
`--stages=NAME,...` runs some stages only; stages that they start from must be finished in the
working directory. On several hosts, start the same command with `--multihost` on each.

Several runs, each in its own folder, give one table (`sweep.md`) with mean and standard deviation,
and with the gain over a stage, paired by seed, with its standard error:

    kd-jax train --config=quickstart --workdir=runs/seeds --seeds=0,1,2 --baseline=student_alone
    kd-jax train --config=quickstart:method=kd --workdir=runs/sweep --seeds=0,1 --shared=teacher \
        --sweep=stages.student.method.temperature=2,4,8

`--shared` trains these stages once, with the first seed, and all runs start from them. `--stages`
chooses stages of every run. `--metrics=accuracy,validation/accuracy` chooses the columns of the
table.

Before the first step, the plan of the run is printed: its stages, what is finished, and where an
unfinished stage resumes. A finished run leaves `report.html`: results, curves, images and config.

Metrics go to TensorBoard or Weights & Biases if a hook says so; NAME is any name:

    kd-jax train --config=quickstart --workdir=runs/quickstart --config.hooks.NAME.name=tensorboard

Compiled programs are kept, so that a run that resumes or is repeated does not compile again: on
accelerators in the folder `programs` of the working directory, on CPUs in `~/.cache/kd_jax`.
`JAX_COMPILATION_CACHE_DIR` names another folder, and `JAX_ENABLE_COMPILATION_CACHE=false` keeps
none.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from kd_jax.commands import _cli
from kd_jax.commands._waiting import waiting
from kd_jax.core.errors import UsageError
from kd_jax.core.files import absolute_path
from kd_jax.core.registry import Registry

_EXAMPLE = "kd-jax train --config=quickstart --workdir=runs/quickstart"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return _cli.exit_code(lambda: _run([*(sys.argv[1:] if argv is None else argv)]))


def _run(argv: list[str]) -> None:
    parser = _cli.Parser(__doc__, _EXAMPLE, command="train", add_help=False)
    add = parser.add_argument
    add("-h", "--help", action="store_true", help="show this text and all keys of a config")
    add("--config", help="config, as FILE or FILE:ARGUMENT")
    add("--workdir", help="folder of the run: a path or gs://...")
    add("--stages", help="names of the stages to run, separated by commas (default: all)")
    add("--seeds", help="seeds of several runs, separated by commas")
    add("--sweep", action="append", default=[], metavar="KEY=VALUE,...",
        help="values of a key, each with every seed; it may be given several times")  # fmt: skip
    add("--shared", default="", help="stages that are trained once for all runs of a sweep")
    add("--baseline", help="stage from which the table of a sweep measures gains")
    add("--metrics", default="", help="metrics in the table of a sweep, separated by commas")
    add("--print_config", action="store_true", help="print the whole configuration; train nothing")
    add("--multihost", action="store_true", help="join the processes of a pod or a cluster")
    add("--import", dest="imports", action="append", default=[], metavar="FILE_OR_MODULE",
        help="your own networks, methods, sources ...; it may be given several times")  # fmt: skip
    assignments, rest = _cli.assignments(argv, "--config.")
    args = parser.parse(rest)
    if args.help:
        print(parser.format_help(), *_keys(), sep="\n")
        return
    parser.require(args, "config")
    if args.print_config:
        print(*_lines(_config(args, assignments)), sep="\n")
        return
    parser.require(args, "workdir")
    if args.multihost:
        _cli.start_processes()
    with waiting("starting JAX"):
        from kd_jax.commands._programs import keep_compiled

        keep_compiled(absolute_path(args.workdir, "--workdir"))
    if args.seeds or args.sweep:
        _sweep(args, _config(args, assignments))
        return
    parser.refuse(args, ("shared", "baseline", "metrics"), "without --seeds or --sweep")
    with waiting("reading the images and checking all stages"):
        from kd_jax.experiment import report
        from kd_jax.experiment.run import Run

        stages = None if args.stages is None else _names(args.stages)
        run = Run(_config(args, assignments), args.workdir, stages=stages)
    summary = run.run()
    print(report.table(summary))
    if lines := report.differences(summary):
        print("", *lines, "", sep="\n")
    print(f"results.json, report.md, report.html and curves.png are in {args.workdir}")


def _sweep(args: argparse.Namespace, config: dict[str, Any]) -> None:
    """Runs several seeds and values, and prints their table."""
    from kd_jax.experiment.sweep import Sweep, run_sweep, table

    try:
        seeds = tuple(int(seed) for seed in (args.seeds or "0").split(","))
    except ValueError:
        raise UsageError(f"--seeds={args.seeds} must be whole numbers, such as 0,1,2.") from None
    values = {}
    for text in args.sweep:
        key, equals, words = text.partition("=")
        if not equals:
            raise UsageError(f"--sweep={text} must be KEY=VALUE,..., such as seed=0,1.")
        values[key] = tuple(words.split(","))
    sweep = Sweep(
        seeds,
        values,
        shared=_names(args.shared),
        stages=None if args.stages is None else _names(args.stages),
        baseline=args.baseline,
        metrics=_names(args.metrics),
    )
    found = run_sweep(config, args.workdir, sweep)
    print(table(found))
    print(f"sweep.json and sweep.md are in {args.workdir}, and one folder per run")


def _names(text: str) -> tuple[str, ...]:
    """Returns names that are separated by commas."""
    return tuple(name for name in text.split(",") if name)


def _config(args: Any, assignments: dict[str, str]) -> dict[str, Any]:
    """Returns the config with all values of the command line."""
    from kd_jax.experiment.config_files import import_modules, load_config
    from kd_jax.experiment.keys import override
    from kd_jax.experiment.specs import Experiment

    absolute_path(args.config, "--config")  # raises an error for what cannot be a path
    config = load_config(args.config).to_dict()
    import_modules(config)
    if args.imports:
        config["imports"] = [*(config.get("imports") or ()), *args.imports]
    if "imports" in assignments:
        config = override(Experiment, config, {"imports": assignments["imports"]})
    import_modules(config)  # the other assignments may name what these register
    return override(Experiment, config, assignments)


def _lines(config: dict[str, Any]) -> Iterator[str]:
    """Yields every key of a configuration with its value and meaning."""
    from kd_jax.experiment.keys import describe
    from kd_jax.experiment.specs import experiment

    for option in describe(experiment(config)):
        yield f"{option.key} = {option.value!r}  # {option.text}"


def _keys() -> Iterator[str]:
    """Yields every key that a config may have, with its default and meaning."""
    from kd_jax.data import SOURCES
    from kd_jax.evaluation import EVALUATORS
    from kd_jax.experiment.keys import describe_keys
    from kd_jax.experiment.specs import Experiment
    from kd_jax.methods import METHODS
    from kd_jax.training import SCHEDULES, Optimizer
    from kd_jax.training.hooks import HOOKS

    yield "keys of a config, as in --config.data.batch_size=128 (NAME means any name):"
    for option in describe_keys(Experiment):
        yield f"  {option.key} ({option.value})\n      {option.text}"
    entries: dict[str, Registry[Any]] = {
        "data.source": SOURCES,
        "stages.NAME.method": METHODS,
        "stages.NAME.evaluators.NAME": EVALUATORS,
        "stages.NAME.optimizers.NAME.schedule": SCHEDULES,
        "hooks.NAME": HOOKS,
    }
    for key, registry in entries.items():
        for name in registry.names():
            yield f"\nkeys of {key} with the name {name}:"
            options = [*describe_keys(registry.get(name))]
            for option in options:
                yield f"  {option.key} ({option.value})\n      {option.text}"
            if not options:
                yield "  none"
    yield "\nkeys of stages.NAME.optimizers.NAME, in addition to the arguments of optax.NAME:"
    for option in describe_keys(Optimizer):
        yield f"  {option.key} ({option.value})\n      {option.text}"


if __name__ == "__main__":
    sys.exit(main())
