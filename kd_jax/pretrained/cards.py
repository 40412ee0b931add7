"""The card of an exported file: what its users must know, as JSON."""

import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

import kd_jax
from kd_jax.core.errors import UsageError
from kd_jax.core.files import read_json
from kd_jax.pretrained.agreement import Agreement
from kd_jax.pretrained.exporting import FORMATS, OUTPUTS, PLATFORMS, forward
from kd_jax.pretrained.info import NetworkInfo
from kd_jax.pretrained.weights import FINISHED, Trained, Weights


def card(
    name: str,
    content: bytes,
    format: str,
    trained: Trained,
    size: tuple[int, int],
    agreement: Agreement,
    images: str,
) -> dict[str, Any]:
    """Returns the card of a file, without its origin.

    Args:
        name: name of the file.
        content: content of the file.
        format: name of the format.
        trained: the network.
        size: height and width of the images.
        agreement: result of the comparison with the network.
        images: description of the images of that comparison.
    """
    info, made = trained.info, FORMATS[format]
    image = jax.ShapeDtypeStruct((1, *size, len(info.mean)), jnp.uint8)
    outputs = jax.eval_shape(forward(trained), image)
    return {
        "file": name,
        "format": format,
        **({"platforms": list(PLATFORMS)} if format == "stablehlo" else {}),
        "sha256": hashlib.sha256(content).hexdigest(),
        "load": load_line(name, format),
        "network": {
            "name": info.name,
            "options": {key: _plain(value) for key, value in info.options.items()},
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(trained.variables["params"])),
        },
        "input": {
            "name": "images",
            "dtype": "uint8",
            "shape": ["N", *size, len(info.mean)],
            "channels": "gray" if len(info.mean) == 1 else "red, green, blue",
            "values": "0 to 255",
        },
        "preprocessing": _preprocessing(info, size, made.computes),
        "outputs": {name: ["N", *outputs[name].shape[1:]] for name in OUTPUTS},
        "classes": list(info.class_names),
        "check": {"of": images, **agreement.to_json()},
        "versions": {"kd_jax": kd_jax.__version__, "jax": jax.__version__},
    }


def load_line(path: str, format: str) -> str:
    """Returns the code that loads a file and computes probabilities of `images`."""
    return FORMATS[format].load.replace("FILE", repr(path))


def origin(path: epath.Path, role: str | None, checkpoint: str, key: str) -> dict[str, Any]:
    """Returns where a network comes from, and its results where the stage has stored them.

    Args:
        path: folder of a finished stage, or a file of one network.
        role: role of the network in the stage; None is the one that `load` chooses.
        checkpoint: `last` or `best`.
        key: option that names the folder, for errors.
    """
    if not path.is_dir():
        return {"file": path.name}
    weights = Weights.find(path, role, checkpoint, key)
    found: dict[str, Any] = {"folder": str(path), "role": weights.role, "checkpoint": checkpoint}
    try:
        stage = read_json(path / FINISHED)
    except (OSError, ValueError) as error:  # it was read before
        raise UsageError(f"{key} = {str(path)!r} has changed: run the command again.") from error
    values = stage.get(checkpoint)
    if isinstance(values, Mapping) and stage.get("role") == weights.role:
        results = {key: value for key, value in values.items() if key not in ("step", "epoch")}
        if results:
            found["results"] = results
    return {**found, "step": weights.step}


def _preprocessing(info: NetworkInfo, size: tuple[int, int], inside: bool) -> dict[str, Any]:
    """Returns the steps from images to the input of the network, and where they are computed."""
    resize = None if size == info.size else {"size": list(info.size), "filter": info.filter}
    center = None
    if info.center < 1:
        center = [max(1, round(info.center * side)) for side in size]
    return {
        "inside_the_file": inside,
        "center": center,
        "resize": resize,
        "scale": "divide by 255",
        "mean": list(info.mean),
        "std": list(info.std),
    }


def _plain(value: Any) -> Any:
    """Returns an option as JSON has it."""
    return value if isinstance(value, bool | int | float | str | list | dict | None) else str(value)
