"""Files of a run, on a local disk or in a bucket (`gs://...`)."""

import os
from collections.abc import Mapping
from typing import Any

from etils import epath

from kd_jax.core.errors import UsageError

PathLike = str | os.PathLike[str]
"""A path on a disk or in a bucket."""


def absolute_path(path: PathLike, key: str | None = None) -> epath.Path:
    """Returns the absolute path; `~` is the home directory.

    Args:
        path: the path.
        key: option that names the path, for errors.

    Raises:
        UsageError: if the text is no path, such as `http://...`, or a text with a NUL character.
    """
    text = os.fspath(path)
    try:
        if "\0" in text:
            raise ValueError("it has a NUL character")
        return epath.Path(text if "://" in text else os.path.abspath(os.path.expanduser(text)))
    except (KeyError, ValueError) as error:
        name = "" if key is None else f"{key} = "
        raise UsageError(
            f"{name}{text!r} cannot be a path ({error}): name a folder or file on a disk, or"
            " gs://..."
        ) from error


def write_atomically(path: epath.Path, content: str | bytes) -> None:
    """Writes a file that has either the old or the new content, whenever the process dies."""
    draft = path.with_name(path.name + ".tmp")
    with draft.open("wb" if isinstance(content, bytes) else "w") as file:
        file.write(content)
        file.flush()
        if "://" not in os.fspath(path):
            os.fsync(file.fileno())
    draft.replace(path)


def differences(before: Any, now: Any, key: str = "") -> list[str]:
    """Lists where two JSON values differ, in words: `data.batch_size was 64, is 128`."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        keys = [*before, *(k for k in now if k not in before)]
        return [
            line
            for k in keys
            for line in differences(
                before.get(k, "absent"), now.get(k, "absent"), f"{key}.{k}" if key else k
            )
        ]
    return [] if before == now else [f"{key} was {before!r}, is {now!r}"]
