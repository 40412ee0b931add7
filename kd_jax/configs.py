"""What config files are made of: their argument, and what every config has."""

import json
import pathlib
import runpy
from types import SimpleNamespace
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from kd_jax.errors import UsageError, choices


def base_config(experiment: str) -> ConfigDict:
    """A config of one name, with everything that has a default, so that it can be overridden."""
    config = ConfigDict()
    config.experiment = experiment
    config.seed = 0
    config.execution = "jit"
    config.num_devices = placeholder(int)
    config.checkpoint_minutes = 10.0
    config.data = {
        "train_split": "train",
        "test_split": "test",
        "train_fraction": 1.0,
        "subset_seed": 0,
        "eval_batch_size": 512,
        "augmentation": {"crop_padding": 0, "flip": False},
        "filter": "bicubic",
        "stream": False,
    }
    return config


def stage(
    method: dict[str, Any],
    optimizers: dict[str, Any],
    epochs: float,
    evaluate_every: float = 1.0,
    own_augmentation: bool = False,
    **networks: dict[str, Any],
) -> dict[str, Any]:
    """A stage of its own.

    Everything is copied: a ConfigDict keeps shared dictionaries shared, and then setting a value of
    one stage on the command line would set it in all.
    """
    values = {
        "method": method,
        "networks": networks,
        "optimizers": optimizers,
        "epochs": float(epochs),
        "evaluate_every": float(evaluate_every),
        "own_augmentation": own_augmentation,
    }
    return json.loads(json.dumps(values))


def step_sgd(epochs: float) -> dict[str, Any]:
    """Optimizers of a stage: SGD from 0.1, times 0.1 at epochs 75, 130 and 180 of 200.

    The milestones move along with the number of epochs. EKD's recipe (Ge et al., TCSVT 2021), with
    RepDistiller's weight decay.
    """
    milestones = [epoch * epochs / 200 for epoch in (75, 130, 180)]
    return {
        "default": {
            "name": "sgd",
            "learning_rate": 0.1,
            "momentum": 0.9,
            "weight_decay": 5e-4,
            "schedule": {"name": "step", "milestones": milestones, "factor": 0.1},
        }
    }


def face_source(path: str, *, name: str = "face_folder", **values: Any) -> dict[str, Any]:
    """Where aligned faces come from, with everything that can be overridden."""
    lists = {"include": placeholder(str), "exclude_ids": placeholder(str)}
    return {"name": name, "path": path, "min_images": 2, "test_images": 1, **lists, **values}


def frozen(source: str) -> dict[str, Any]:
    """The network that an earlier stage has trained, as a teacher."""
    return {"init_from": source, "frozen": True}


def sibling(path: str, name: str) -> SimpleNamespace:
    """What another config file in the folder of `path` defines."""
    return SimpleNamespace(**runpy.run_path(str(pathlib.Path(path).with_name(name))))


def parse_argument(argument: str | None, **defaults: Any) -> SimpleNamespace:
    """Reads a config's argument, as in `--config=FILE.py:student=vgg11,resolution=32,smoke`.

    Args:
        argument: `key=value` pairs joined by commas; a key alone is True.
        **defaults: the known keys; each value must be of its default's type, or one of a tuple,
            whose first is the default. `smoke`, which makes a run as short as possible, is always
            known.

    Raises:
        UsageError: for an unknown key, or a value that is not of the key's type.
    """
    known = {"smoke": False, **defaults}
    chosen = {key: value[0] if isinstance(value, tuple) else value for key, value in known.items()}
    default = dict(chosen)
    for part in filter(None, (argument or "").split(",")):
        key, equals, text = part.partition("=")
        if key not in known:
            raise UsageError(
                f"config argument {key!r} is unknown: choose among {choices(key, known)}."
            )
        chosen[key] = _value(text, type(default[key]), key) if equals else True
        if type(chosen[key]) is not type(default[key]):
            raise UsageError(f"config argument {key!r} needs a value: write {key}=...")
        if isinstance(known[key], tuple) and chosen[key] not in known[key]:
            raise UsageError(
                f"config argument {key}={text!r} is unknown: choose {choices(text, known[key])}."
            )
    return SimpleNamespace(**chosen)


def _value(text: str, kind: type, key: str) -> Any:
    try:
        return {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError) as error:
        raise UsageError(f"config argument {key}={text!r} must be {kind.__name__}.") from error
