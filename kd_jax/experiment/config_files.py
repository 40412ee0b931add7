"""Helpers for config files: their argument, and stages that share nothing."""

import dataclasses
import json
import pathlib
import runpy
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from ml_collections import ConfigDict

from kd_jax.core import user_code
from kd_jax.core.errors import UsageError, check_choice


def stage(
    method: Mapping[str, Any], optimizers: Mapping[str, Any], epochs: float, **values: Any
) -> dict[str, Any]:
    """Returns a stage that shares no part with another.

    Everything is copied: a ConfigDict keeps shared dictionaries shared, and a change of one stage
    would then change all.

    Args:
        method: the method and its options.
        optimizers: optimizers by group.
        epochs: length of the stage.
        **values: the networks by role, and further keys of `StageSpec`.
    """
    from kd_jax.experiment.specs import StageSpec  # imports jax, which takes seconds

    fields = {field.name for field in dataclasses.fields(StageSpec)}
    options = {name: values.pop(name) for name in fields & values.keys()}
    stage = {"method": method, "networks": values, "optimizers": optimizers, "epochs": epochs}
    return json.loads(json.dumps(stage | options))


def from_stage(source: str, **values: Any) -> dict[str, Any]:
    """Returns the network that an earlier stage has trained, as a teacher."""
    return {"init_from": source, **values}


def face_source(path: str, *, name: str = "face_folder", **values: Any) -> dict[str, Any]:
    """Returns a source of aligned faces."""
    return {"name": name, "path": path, **values}


def sibling(path: str, name: str) -> SimpleNamespace:
    """Returns the definitions of another config file, by its path from the folder of `path`."""
    return SimpleNamespace(**runpy.run_path(str(pathlib.Path(path).parent / name)))


# ------------------------------------------------------------------------------------- files


def find_config(name: str) -> pathlib.Path:
    """Returns the path of a config file.

    Args:
        name: a path, or the name of a config that comes with the package, such as `quickstart` or
            `horkd/cifar100`.

    Raises:
        UsageError: if there is no such file.
    """
    path = pathlib.Path(name).expanduser()
    if path.is_file():
        return path
    for folder in _folders():
        packaged = (folder / name.removeprefix("configs/")).with_suffix(".py")
        if packaged.is_file():
            return packaged
    raise UsageError(
        f"--config={name} is no file, and no config of the package: choose a path, or one of"
        f" {', '.join(packaged_configs())}."
    )


def packaged_configs() -> tuple[str, ...]:
    """Returns the names of the configs that come with the package."""
    return tuple(
        sorted(
            {
                path.relative_to(folder).with_suffix("").as_posix()
                for folder in _folders()
                for path in folder.rglob("*.py")
                if not path.name.startswith("_")
            }
        )
    )


def _folders() -> list[pathlib.Path]:
    """Returns the folder of configs: that of an installed wheel, or that of a checkout."""
    package = pathlib.Path(__file__).parents[1]
    if (package / "configs").is_dir():
        return [package / "configs"]
    checkout = package.parent
    return [checkout / "configs"] if (checkout / "pyproject.toml").is_file() else []


def load_config(reference: str) -> ConfigDict:
    """Reads a config.

    Args:
        reference: `FILE` or `FILE:ARGUMENT`, where FILE is a path or the name of a config of the
            package.

    Raises:
        UsageError: if it cannot be read, or returns no ConfigDict.
    """
    name, _, argument = reference.partition(":")
    path = find_config(name)
    try:
        get_config = runpy.run_path(str(path))["get_config"]
        config = get_config(argument) if argument else get_config()
    except UsageError:
        raise
    except (Exception, SystemExit) as error:  # a config file is code, and raises what it likes
        raise UsageError(
            f"--config={reference} cannot be read ({user_code.raised(error)}): it must be a Python"
            " file with a function get_config."
        ) from error
    if not isinstance(config, ConfigDict):
        raise UsageError(
            f"--config={reference}: get_config must return a ConfigDict, not"
            f" {'None' if config is None else type(config).__name__}: end it with `return config`."
        )
    return config


def import_modules(config: Mapping[str, Any]) -> None:
    """Imports the user's own modules, which a config names in `imports`.

    Raises:
        UsageError: if one cannot be imported, or `imports` is not a list of words.
    """
    imports = config.get("imports") or ()
    if not isinstance(imports, list | tuple) or not all(isinstance(x, str) for x in imports):
        raise UsageError(f"imports = {imports!r} must be a list of files or module names.")
    user_code.import_all(imports)


# ---------------------------------------------------------------------------------- argument


def parse_argument(
    argument: str | None, *, smoke_values: Mapping[str, Any] | None = None, **defaults: Any
) -> SimpleNamespace:
    """Reads a config's argument, as in `--config=FILE.py:student=vgg11,resolution=32,smoke`.

    Args:
        argument: pairs `key=value`, separated by commas; a key alone is True.
        smoke_values: with the key `smoke`, the values of the keys that are not given.
        **defaults: the known keys. Each value must be of its default's type, or one of a tuple,
            whose first is the default. The key `smoke`, which makes a run as short as possible, is
            always known.

    Raises:
        UsageError: for an unknown key, or a value that is not of the key's type.
    """
    known = {"smoke": False, **defaults}
    chosen = {key: value[0] if isinstance(value, tuple) else value for key, value in known.items()}
    default, given = dict(chosen), set()
    for part in filter(None, (argument or "").split(",")):
        key, equals, text = part.partition("=")
        check_choice(key, known, "config argument")
        given.add(key)
        chosen[key] = _value(text, type(default[key]), key) if equals else True
        if type(chosen[key]) is not type(default[key]):
            raise UsageError(f"config argument {key!r} needs a value: write {key}=...")
        if isinstance(known[key], tuple):
            check_choice(chosen[key], known[key], f"config argument {key}")
    if chosen["smoke"]:
        chosen |= {k: value for k, value in (smoke_values or {}).items() if k not in given}
    return SimpleNamespace(**chosen)


def _value(text: str, kind: type, key: str) -> Any:
    try:
        return {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError) as error:
        raise UsageError(f"config argument {key}={text!r} must be {kind.__name__}.") from error
