"""Tables of experiments: runs of single stages, means over seeds, and `table.md`.

A script trains each cell of its table as a run of one stage. A teacher that several cells share is
trained once: the configs of these cells name its folder.
"""

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from kd_jax.core.errors import UsageError, check_choice
from kd_jax.core.files import PathLike, absolute_path, read_json, write_atomically
from kd_jax.experiment import report
from kd_jax.experiment import run as runs
from kd_jax.experiment.building import to_config
from kd_jax.experiment.config_files import import_modules
from kd_jax.experiment.specs import experiment
from kd_jax.experiment.sweep import mean_and_error as mean_and_error
from kd_jax.experiment.sweep import mean_and_std as mean_and_std

# ----------------------------------------------------------------------------- command line


def seeds(text: str) -> list[int]:
    """Reads the value of `--seeds`: whole numbers separated by commas."""
    try:
        return [int(seed) for seed in text.split(",")]
    except ValueError:
        raise UsageError(f"--seeds={text} must be whole numbers, such as 0,1,2.") from None


def names(text: str, known: Iterable[str], option: str) -> list[str]:
    """Reads names separated by commas.

    Args:
        text: value of the option.
        known: all names that are allowed.
        option: name of the option, for errors.

    Raises:
        UsageError: if a name is unknown, or there is none.
    """
    known = tuple(known)
    found = [name for name in text.split(",") if name]
    if not found:
        raise UsageError(f"{option} is empty: choose among {', '.join(known)}.")
    return [check_choice(name, known, option) for name in found]


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """Adds the options that change the recipe of a config."""
    parser.add_argument("--width", type=float, help="width of all networks (default: the paper's)")
    parser.add_argument("--epochs", type=int, help="epochs of every stage (default: the paper's)")
    parser.add_argument("--dtype", help="dtype of the computation (default: bfloat16)")
    parser.add_argument("--smoke", action="store_true", help="run as short as possible")


def recipe(args: argparse.Namespace, *more: str) -> list[str]:
    """Returns the arguments of a config that the options of `add_recipe`, and more, ask for."""
    chosen = {key: getattr(args, key) for key in ("width", "epochs", "dtype", *more)}
    options = [f"{key}={value}" for key, value in chosen.items() if value is not None]
    return [*options, "smoke"] if args.smoke else options


# -------------------------------------------------------------------------------------- runs


class Result(NamedTuple):
    """A finished stage.

    Attributes:
        network: name of the architecture.
        resolution: height of the images that the network sees.
        accuracy: result of the stage after the last epoch, 0 to 1: the accuracy on the test images,
            where there are any.
        metrics: all metrics after the last epoch, and `images_per_second` of training.
        seconds: time of the stage, with compilation and evaluations.
        device: number and kind of the devices.
        folder: folder of the stage.
    """

    network: str
    resolution: int
    accuracy: float
    metrics: Mapping[str, float]
    seconds: float
    device: str
    folder: epath.Path


def one_stage(
    config: Mapping[str, Any],
    stage: str,
    *,
    teacher: PathLike | None = None,
    method: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Returns a config that trains a single stage of another config.

    Args:
        config: a ConfigDict or plain dictionaries, with all stages.
        stage: name of the stage.
        teacher: folder of the finished stage that the weights of the teacher come from. None leaves
            out the networks that start from another stage.
        method: the method of the stage. None keeps the one of the config.

    Raises:
        UsageError: if the config has no such stage.
    """
    values = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    chosen = dict(values["stages"][check_choice(stage, values["stages"], "stage")])
    networks = {
        role: network
        for role, network in chosen["networks"].items()
        if network.get("init_from") is None
    }
    if teacher is not None:
        networks["teacher"] = {**chosen["networks"]["teacher"], "init_from": str(teacher)}
    chosen["networks"] = networks
    if method is not None:
        chosen["method"] = dict(method)
    return {**values, "stages": {stage: chosen}, "pipeline": (stage,)}


def summary(config: Mapping[str, Any], workdir: PathLike) -> dict[str, Any]:
    """Runs an experiment, or reads `results.json` if the same experiment is finished already.

    A finished experiment does not need its images any more.

    Args:
        config: plain dictionaries.
        workdir: folder of the run.
    """
    path = absolute_path(workdir) / "results.json"
    if path.exists():
        import_modules(config)
        try:
            found = read_json(path)
        except (OSError, ValueError):  # damaged: the run checks its files and writes it again
            return runs.run(config, workdir)
        now, before = json.loads(json.dumps(to_config(experiment(config)))), found.get("config")
        if isinstance(before, dict) and runs.fixed(before) == runs.fixed(now):
            return found
    return runs.run(config, workdir)


def run(config: Mapping[str, Any], workdir: PathLike) -> Result:
    """Runs an experiment of one stage, or reads its result if it is finished already.

    See `summary` for the arguments.
    """
    found = summary(config, workdir)
    (stage,), device = found["stages"], found["device"]
    return Result(
        network=stage["network"],
        resolution=stage["resolution"],
        accuracy=report.result(stage),
        metrics={**stage["last"], "images_per_second": stage["images_per_second"]},
        seconds=stage["seconds"],
        device=f"{device['count']} x {device['kind']} ({device['platform']})",
        folder=absolute_path(workdir) / stage["name"],
    )


# ----------------------------------------------------------------------------------- numbers


def gain(values: Sequence[float], baseline: Sequence[float]) -> str:
    """Returns mean and standard error of paired differences of fractions, in percentage points.

    Args:
        values: one value per seed.
        baseline: one value per seed, in the same order.
    """
    return mean_and_error([a - b for a, b in zip(values, baseline, strict=True)])


def write(text: str, workdir: PathLike) -> None:
    """Writes `table.md`."""
    folder = absolute_path(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "table.md", text + "\n")
