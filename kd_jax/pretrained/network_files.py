"""A network in one `.safetensors` file: its variables by their paths in Flax, and its description.

The description, as JSON, is the text `kd_jax` of the metadata in the header.
"""

import dataclasses
import json
import os
from typing import Any

import jax
import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict

from kd_jax.core.errors import UsageError, reason
from kd_jax.data.local_files import open_file
from kd_jax.pretrained import flax_names
from kd_jax.pretrained.info import NetworkInfo
from kd_jax.pretrained.pytorch import safetensors

PyTree = Any
_DESCRIPTION = "kd_jax"
_REMEDY = "name a folder of a finished stage, or a file of `kd-jax export --format=safetensors`"


def content(info: NetworkInfo, variables: PyTree) -> bytes:
    """Returns the content of the file of a network."""
    flat = flatten_dict(jax.device_get(variables), sep=flax_names.SEPARATOR)
    arrays = {name: np.asarray(array) for name, array in flat.items()}
    text = json.dumps(dataclasses.asdict(info))
    return safetensors.serialize(arrays, {"format": "flax", _DESCRIPTION: text})


def read(path: epath.Path, key: str) -> tuple[NetworkInfo, PyTree]:
    """Reads the file of a network.

    Args:
        path: the file.
        key: option that names the file, for errors.

    Returns:
        The description, and the variables in host memory.

    Raises:
        UsageError: if the file cannot be read, or has no description of a network.
    """
    name = f"{key} = {str(path)!r}"
    try:
        return parse(_content(path), name)
    except OSError as error:
        raise UsageError(f"{name} cannot be read ({reason(error)}): {_REMEDY}.") from error


def _content(path: epath.Path) -> bytes:
    """Returns the bytes of a regular file or of an object in a bucket."""
    if "://" in os.fspath(path):
        return path.read_bytes()
    with open_file(path) as file:
        return file.read()


def parse(data: bytes, name: str) -> tuple[NetworkInfo, PyTree]:
    """Returns the description and the variables in the content of a file.

    Args:
        data: the content.
        name: name of the file, for errors.

    Raises:
        UsageError: if it is damaged, or has no description of a network.
    """
    try:
        text = safetensors.read_metadata(data).get(_DESCRIPTION)
        tensors = safetensors.parse(data)
        values = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{name} cannot be read ({reason(error)}): {_REMEDY}.") from error
    if text is None:
        raise UsageError(
            f"{name} has no description of a network: {_REMEDY}, or import the file by"
            " `kd-jax import`."
        )
    info = NetworkInfo.from_json(values)
    return info, flax_names.to_variables(tensors, info.shapes(info.module()), info.name, name)
