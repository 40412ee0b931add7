"""A chain of two small stages, HORKD on digits; also a config file for commands.

`online_config` is one stage of EKD on the same images.
"""

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import small_stage  # noqa: F401 - registers the network "tiny"
from jax.experimental.compilation_cache import compilation_cache
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    sgd = {"name": "sgd", "learning_rate": 0.05, "momentum": 0.9}
    optimizers = {"default": {**sgd, "schedule": {"name": "cosine"}}}
    student = {"name": "tiny", "resolution": 4}
    # The triplets take the most time to compile; tests of the losses and of the method have them.
    horkd = {"name": "horkd", "feature_weight": 0.1, "pair_weight": 1.0, "triplet_weight": 0.0}

    def stage(method, student, teacher=None):
        networks = {"student": student}
        if teacher:
            networks["teacher"] = {"init_from": teacher}
        return {
            "networks": networks,
            "method": method,
            "optimizers": optimizers,
            "epochs": 2.0,
            "evaluate_every": 0.5,
        }

    supervised = {"name": "supervised"}
    wide = {"name": "tiny", "options": {"width": 2.0}}
    config = ConfigDict()
    config.experiment = "small"
    config.data = {
        "source": {"name": "digits"},
        "train_split": "train[:160]",
        "test_split": "test[:50]",
        "batch_size": 16,
        "eval_batch_size": 24,
        "augmentation": {"crop_padding": 1},
    }
    config.stages = {
        "teacher": stage(supervised, wide),
        "student": stage(horkd, student, "teacher"),
    }
    config.num_devices = 1
    return config


def online_config() -> ConfigDict:
    """Two networks that learn together, each with a guided module, from averages and parts."""
    config = get_config()
    stage = config.stages.teacher.copy_and_resolve_references()
    stage.method = {"name": "ekd"}
    stage.networks.teacher = {"name": "tiny", "options": {"width": 2.0}}
    stage.networks.student = {"name": "tiny"}
    stage.epochs = 1.0
    stage.ema_decay = 0.9
    stage.accumulate = 2
    config.stages = {"ekd": stage}
    return config


def student_config(teacher: str | pathlib.Path, **values: Any) -> dict[str, Any]:
    """Returns plain values of a config whose only stage starts from the folder of a teacher."""
    config = changed({"stages.teacher": ...}) | values
    config["stages"]["student"]["networks"]["teacher"]["init_from"] = str(teacher)
    return config


def changed(assignments: dict[str, Any], config: ConfigDict | None = None) -> dict[str, Any]:
    """Returns plain values of a config with some keys set; `...` removes a key."""
    values = (config or get_config()).to_dict()
    for key, value in assignments.items():
        *path, last = key.split(".")
        place = values
        for name in path:
            place = place[name]
        if value is ...:
            del place[last]
        else:
            place[last] = value
    return values


def numbers(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns those results that do not depend on how often a run was stopped."""
    keys = ("name", "network", "resolution", "params", "last", "best")
    return [{key: stage[key] for key in keys} for stage in summary["stages"]]


@contextlib.contextmanager
def compiled_once(folder: pathlib.Path) -> Iterator[None]:
    """Keeps compiled programs in a folder, so that equal ones of several runs compile once."""
    options = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in options}
    for name, value in options.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
