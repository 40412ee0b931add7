"""What the finished stages of a run have stored: results, curves, versions and devices."""

import json
import math
import platform
from collections.abc import Iterable, Mapping
from importlib import metadata
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

import kd_jax
from kd_jax.core.errors import UsageError, reason
from kd_jax.core.files import read_json, read_regular
from kd_jax.pretrained.weights import FINISHED

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
CONFUSION = "confusion.json"
"""File with the confusion matrix of a stage."""
_CURVE = "metrics.jsonl"
_KINDS: dict[str, Any] = {
    "network": str,
    "resolution": int,
    "params": int,
    "metric": str,
    "seconds": int | float,
    "last": dict,
    "best": dict,
    "versions": dict,
    "device": dict,
}
"""Types of the values in `stage.json` that reports need."""


def environment(mesh: Mesh) -> dict[str, Any]:
    """Returns the versions and the devices of this process."""
    device = mesh.devices.flat[0]
    return {
        "versions": {
            "kd_jax": kd_jax.__version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in PACKAGES},
        },
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            "count": mesh.size,
            "processes": jax.process_count(),
        },
    }


def stored_stage(folder: epath.Path) -> dict[str, Any]:
    """Returns the results of a finished stage.

    Raises:
        UsageError: if `stage.json` is damaged.
    """
    path = folder / FINISHED
    try:
        stage = read_json(path)
        if stage.get("name") != folder.name:
            raise ValueError(f"its name must be {folder.name!r}")
        check_stage(stage)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path} is damaged ({reason(error)}): restore it, or delete {folder} and run the same"
            " command again, which trains the stage again."
        ) from error
    return stage


def check_stage(stage: Mapping[str, Any]) -> None:
    """Raises `ValueError` if the content of `stage.json` lacks a value that reports need."""
    for name, kind in _KINDS.items():
        if not isinstance(stage.get(name), kind) or isinstance(stage[name], bool):
            raise ValueError(f"{name} is missing, or of another type")
    if not isinstance(stage.get("predictions", []), list):  # version 0.1 has none
        raise ValueError("predictions is of another type")
    _check_sizes(stage)
    for checkpoint in ("last", "best"):
        names = {"step", "epoch", result_name(stage), *stage[checkpoint]}
        _check_numbers(stage[checkpoint], names)
    _check_numbers(stage["device"], ("count", "processes"))


def curve(folder: epath.Path) -> list[dict[str, Any]]:
    """Returns the lines of `metrics.jsonl` of a stage; none if the file is missing.

    Raises:
        UsageError: if the file is damaged.
    """
    path = folder / _CURVE
    if not path.exists():
        return []
    try:
        entries = [json.loads(line) for line in read_regular(path).splitlines()]
        for entry in entries:
            _check_numbers(entry, {"step", "epoch", *entry} - {"train"})
            _check_numbers(entry.get("train"), ("loss",))
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(
            f"{path} is damaged ({reason(error)}): restore it, or delete it and run the same"
            " command again; only the plotted curves need it."
        ) from error
    return entries


def confusion(folder: epath.Path) -> np.ndarray | None:
    """Returns the confusion matrix of a stage, int64 `[C, C]`, or None if it has none.

    Raises:
        UsageError: if the file is damaged.
    """
    path = folder / CONFUSION
    if not path.exists():
        return None
    try:
        counts = np.asarray(read_json(path)["counts"])
        if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or counts.dtype.kind != "i":
            raise ValueError("counts is no square matrix of whole numbers")
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(
            f"{path} is damaged ({reason(error)}): restore it, or delete it and run the same"
            " command again; only report.html needs it."
        ) from error
    return counts


def _check_sizes(stage: Mapping[str, Any]) -> None:
    """Raises `ValueError` for sizes that are no whole numbers. Stages of version 0.2 have none."""
    size, images = stage.get("size", [1, 1]), stage.get("images", {})
    if not isinstance(size, list) or len(size) != 2 or not isinstance(images, dict):
        raise ValueError("size or images is of another type")
    if any(type(number) is not int or number < 1 for number in (*size, *images.values())):
        raise ValueError("size or images holds no whole number above 0")


def _check_numbers(values: Any, names: Iterable[Any]) -> None:
    """Raises `ValueError` if some values of a dictionary are no finite numbers."""
    for name in names:
        value = values.get(name) if isinstance(values, Mapping) else None
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            raise ValueError(f"{name} is no finite number")


def result(stage: Mapping[str, Any], checkpoint: str = "last") -> float:
    """Returns the metric that describes a stage.

    Args:
        stage: content of `stage.json`.
        checkpoint: `last` or `best`.
    """
    value: float = stage[checkpoint][result_name(stage)]
    return value


def result_name(stage: Mapping[str, Any]) -> str:
    """Returns the name of the metric that describes a stage."""
    return str(stage.get("result", "accuracy"))  # stages of version 0.1 have test images


def seen_size(stage: Mapping[str, Any]) -> str:
    """Returns the size of the images that the network of a stage sees, as in `32` or `112x96`."""
    height, width = stage.get("size", [stage["resolution"]] * 2)  # version 0.2 has no width
    return str(height) if height == width else f"{height}x{width}"


def num_images(stage: Mapping[str, Any]) -> int | None:
    """Returns the number of images behind the result of a stage; None if it is not known.

    It is known for the accuracy on the test images and on the validation images.
    """
    splits = {"accuracy": "test", "validation/accuracy": "validation"}
    number: int | None = stage.get("images", {}).get(splits.get(result_name(stage)))
    return number
