"""Folders of finished stages from imported weights."""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

import kd_jax
from kd_jax.core.errors import UsageError
from kd_jax.core.files import PathLike, absolute_path
from kd_jax.pretrained.info import NetworkInfo
from kd_jax.pretrained.weights import FINISHED
from kd_jax.training.checkpoints import Checkpoints
from kd_jax.training.state import ADAPTERS, TrainState

PyTree = Any
_ROLE = "student"


def check_folder(folder: PathLike, key: str) -> pathlib.Path:
    """Returns the path of a folder that can be made.

    Args:
        folder: the folder. It may exist if it is empty.
        key: option that names the folder, for errors.

    Raises:
        UsageError: if it is not empty, not on a local disk, or cannot be made.
    """
    place = absolute_path(folder)
    if "://" in os.fspath(place):
        raise UsageError(f"{key} = {str(folder)!r} must be a local folder: copy it afterwards.")
    path = pathlib.Path(place)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        free = not path.exists() or (path.is_dir() and not any(path.iterdir()))
    except OSError as error:
        raise UsageError(
            f"{key} = {str(folder)!r} cannot be made ({error}): choose another folder."
        ) from error
    if not free:
        raise UsageError(f"{key} = {str(folder)!r} exists and is not empty: choose a new folder.")
    return path


def write_stage(
    folder: PathLike,
    variables: PyTree,
    info: NetworkInfo,
    origin: Mapping[str, Any],
    *,
    key: str = "folder",
) -> None:
    """Writes a folder that can be used like that of a finished stage.

    The folder appears at once and complete: it is written elsewhere and then renamed.

    Args:
        folder: the folder; it must not exist, or be empty.
        variables: variables of the network.
        info: description of the network.
        origin: where the weights come from, as JSON, for `stage.json` and the checkpoint.
        key: option that names the folder, for errors.

    Raises:
        UsageError: if the folder cannot be written.
    """
    path = check_folder(folder, key)
    state = {name: value for name, value in variables.items() if name != "params"}
    stage = {
        "name": path.name,
        "role": _ROLE,
        "network": info.name,
        "resolution": info.size[0],
        "params": sum(leaf.size for leaf in jax.tree.leaves(variables["params"])),
        "last": {"step": 0},
        "best": {"step": 0},
        "imported": dict(origin),
        "versions": {"kd_jax": kd_jax.__version__},
    }
    try:
        draft = pathlib.Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        with contextlib.ExitStack() as stack:
            stack.callback(shutil.rmtree, draft, ignore_errors=True)
            with Checkpoints(draft / "checkpoints") as checkpoints:
                checkpoints.save(
                    TrainState(
                        step=jnp.zeros((), jnp.int32),
                        params={_ROLE: variables["params"], ADAPTERS: {}},
                        model_state={_ROLE: state},
                        method_state={},
                        opt_state={},
                    ),
                    {},
                    {
                        "networks": {_ROLE: dataclasses.asdict(info)},
                        "weights": {},
                        "imported": dict(origin),
                    },
                )
            (draft / FINISHED).write_text(json.dumps(stage, indent=2) + "\n")
            draft.chmod(0o777 & ~_umask())
            os.replace(draft, path)
    except OSError as error:
        raise UsageError(
            f"{key} = {str(folder)!r} cannot be written ({error}): choose another folder."
        ) from error


def _umask() -> int:
    """Returns the permissions that new files do not get; `mkdtemp` gives only the owner access."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
