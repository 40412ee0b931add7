"""What the scripts of the papers' tables share: single stages of a config, and Markdown tables.

A script trains every cell of its table as a run of its own, of one stage. A teacher that several
cells share is trained once, and the cells name its folder.
"""

import argparse
import json
import runpy
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from etils import epath
from ml_collections import ConfigDict

from kd_jax.errors import UsageError
from kd_jax.files import PathLike, folder, write_atomically
from kd_jax.pipeline import Run

ROOT = Path(__file__).parents[1]


class Parser(argparse.ArgumentParser):
    """Says what is wrong with a command in one sentence, as `python -m kd_jax.train` does."""

    def __init__(self, doc: str):
        super().__init__(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
        self.add_argument("--workdir", required=True, help="folder of the runs and of table.md")

    def error(self, message: str):
        """See `argparse`."""
        raise UsageError(f"{message} (see --help).")


def seeds(text: str) -> list[int]:
    """The numbers of `--seeds`, a comma-separated list."""
    try:
        return [int(seed) for seed in text.split(",")]
    except ValueError:
        raise UsageError(f"--seeds={text} must be numbers, such as 0,1,2.") from None


def choices(text: str, known: Iterable[str], option: str) -> list[str]:
    """The names of a comma-separated list, all of them known."""
    names = [name for name in text.split(",") if name]
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        what = f"{unknown[0]!r} is unknown" if unknown else "it is empty"
        raise UsageError(f"{option}={text}: {what}; choose among {', '.join(known)}.")
    return names


# -------------------------------------------------------------------------------------- runs


def load_config(reference: str) -> ConfigDict:
    """The config of `FILE.py` or `FILE.py:ARGUMENT`."""
    path, _, argument = reference.partition(":")
    try:
        get_config = runpy.run_path(path)["get_config"]
    except (OSError, KeyError, SyntaxError) as error:
        raise UsageError(
            f"{path} cannot be read as a config ({error}): name a file with get_config, such as"
            " configs/quickstart.py."
        ) from error
    return get_config(argument) if argument else get_config()


def one_stage(
    config: ConfigDict,
    stage: str,
    *,
    teacher: epath.Path | None = None,
    method: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A config that trains a single stage of another.

    Args:
        config: of the whole chain.
        stage: name of the stage.
        teacher: folder of the finished stage that its frozen teacher comes from; None leaves the
            stage without one. Networks that start from random weights stay.
        method: what it minimises; None leaves the stage's own.
    """
    values = config.to_dict()
    if stage not in values["stages"]:
        known = ", ".join(values["stages"])
        raise UsageError(f"The config has no stage {stage!r}: its stages are {known}.")
    chosen = values["stages"][stage]
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


class Result(NamedTuple):
    """What a table needs to know of a finished stage.

    The metrics are those of its last epoch, `images_per_second` of training among them.
    """

    network: str
    resolution: int
    accuracy: float
    metrics: Mapping[str, float]
    seconds: float
    device: str
    folder: epath.Path


def summary(config: Mapping[str, Any], workdir: PathLike) -> dict[str, Any]:
    """What `results.json` holds: of an earlier call if that has finished, else of a run."""
    done = folder(workdir) / "results.json"
    if done.exists():  # a finished table is then printed without reading the images again
        found = json.loads(done.read_text())
        if found["config"] == json.loads(json.dumps(config)):
            return found
    return Run(config, workdir).run()


def run(config: Mapping[str, Any], workdir: PathLike) -> Result:
    """Trains the one stage of a config, or reads what an earlier call has found."""
    workdir = folder(workdir)
    found = summary(config, workdir)
    (stage,), device = found["stages"], found["device"]
    return Result(
        stage["network"],
        stage["resolution"],
        stage["last"]["accuracy"],
        {**stage["last"], "images_per_second": stage["images_per_second"]},
        stage["seconds"],
        f"{device['count']} x {device['kind']} ({device['platform']})",
        workdir / stage["name"],
    )


# ------------------------------------------------------------------------------------ tables


def mean_and_deviation(values: Sequence[float]) -> str:
    """Mean and standard deviation (of a sample, so by N - 1) of fractions, in per cent."""
    mean = f"{100 * statistics.mean(values):.2f}"
    return f"{mean} ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else mean


def write(text: str, workdir: PathLike) -> None:
    """Keeps a table as `table.md`."""
    place = folder(workdir)
    place.mkdir(parents=True, exist_ok=True)
    write_atomically(place / "table.md", text + "\n")
