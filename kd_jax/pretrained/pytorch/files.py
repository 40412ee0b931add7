"""Files of weights from PyTorch, read without PyTorch.

A file is recognized by its content, whatever its name is (`.pth`, `.pt`, `.th`, `.bin`, `.tar`,
`.pkl`, `.safetensors`, `.npz`): torch's zip archive, torch's older format, a plain pickle of NumPy
arrays, safetensors, or NumPy's archive. No code in a file is executed, see `unpickling`.
"""

import hashlib
import io
import os
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from kd_jax.core.errors import UsageError, reason
from kd_jax.core.files import PathLike, absolute_path
from kd_jax.data.local_files import open_file
from kd_jax.pretrained.pytorch import safetensors
from kd_jax.pretrained.pytorch.unpickling import Refused, Unpickler, arrays, printable

WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "params")
"""Keys of checkpoints under which the weights are, the first that is there."""

PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.", "encoder.")
"""Prefixes that are removed if all names have them: of DataParallel, compiled and inner modules."""

_MAGIC = 0x1950A86A20F9469CFC6C
"""First number in a file of torch's older format."""


class WeightsFile(NamedTuple):
    """The content of a file of weights.

    Attributes:
        name: name of the file, without the folder.
        sha256: hash of the file.
        tensors: read-only arrays by name, without common prefixes.
    """

    name: str
    sha256: str
    tensors: dict[str, np.ndarray]


def read_file(path: PathLike) -> WeightsFile:
    """Reads a file of weights.

    Args:
        path: path of the file.

    Raises:
        UsageError: if it cannot be read, is damaged, calls code, or holds no tensors.
    """
    place = absolute_path(path)
    try:
        content = _content(place)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read ({reason(error)}): name a file of weights, such as"
            " resnet56.pth."
        ) from error
    try:
        tree = _parse(content)
        tensors = _without_prefixes(arrays(_unwrapped(tree)))
    except Refused as error:
        raise UsageError(
            f"{path} holds more than tensors ({error}, which is never executed): save only"
            " `network.state_dict()` in PyTorch."
        ) from error
    except Exception as error:  # a damaged file fails in many ways, and may demand any memory
        why = printable(reason(error), 200)
        raise UsageError(
            f"{path} cannot be read as weights of PyTorch ({why}): download or copy the file again."
        ) from error
    if not tensors:
        words = [printable(key, 40) for key in list(tree)[:5] if isinstance(key, str)]
        raise UsageError(
            f"{path} holds no dictionary of tensors (its keys are {', '.join(words) or 'none'}):"
            " save the `state_dict()` of the network."
        )
    return WeightsFile(place.name, hashlib.sha256(content).hexdigest(), tensors)


def _content(path: epath.Path) -> bytes:
    """Returns the bytes of a regular file or of an object in a bucket."""
    if "://" in os.fspath(path):
        return path.read_bytes()
    with open_file(path) as file:
        return file.read()


def _parse(content: bytes) -> Mapping[Any, Any]:
    """Returns the dictionary that a file holds."""
    if safetensors.is_safetensors(content):
        return safetensors.parse(content)
    if content.startswith(b"PK"):
        return _parse_zip(content)
    if content.startswith((b"\x80", b"}", b"(", b"c")):  # pickles of all protocols
        return _parse_pickles(content)
    raise ValueError("it is neither torch's format, nor safetensors, nor .npz")


def _parse_zip(content: bytes) -> Mapping[Any, Any]:
    """Reads torch's zip archive, or NumPy's."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = archive.namelist()
        if names and all(name.endswith(".npy") for name in names):
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                return dict(file)
        pickles = [name for name in names if name.rpartition("/")[2] == "data.pkl"]
        if len(pickles) != 1:
            raise ValueError("the archive has no data.pkl")
        folder = pickles[0].removesuffix("data.pkl")
        if any(name.startswith(f"{folder}code/") for name in names):
            raise Refused("it is a program of TorchScript")
        order = f"{folder}byteorder"
        if order in names and _stored(archive, order).strip() != b"little":
            raise ValueError("its numbers are big-endian")
        reader = Unpickler(io.BytesIO(_stored(archive, pickles[0])))
        tree = reader.load()
        for key, storage in reader.storages.items():
            storage.content = _stored(archive, f"{folder}data/{key}")
            if len(storage.content) != storage.num_bytes:
                raise ValueError(f"the data of storage {key[:40]!r} is incomplete")
    return tree


def _stored(archive: zipfile.ZipFile, name: str) -> bytes:
    """Reads a member of torch's archive, where nothing is compressed."""
    member = archive.getinfo(name)
    if member.compress_type != zipfile.ZIP_STORED:
        raise ValueError("the archive is compressed")
    return archive.read(member)


def _parse_pickles(content: bytes) -> Mapping[Any, Any]:
    """Reads torch's older format, or a plain pickle of arrays."""
    file = io.BytesIO(content)
    first = Unpickler(file).load()
    if first != _MAGIC:
        return first
    Unpickler(file).load()  # the version of the format, always 1001
    machine = Unpickler(file).load()
    if not isinstance(machine, Mapping) or machine.get("little_endian") is not True:
        raise ValueError("its numbers are big-endian")
    reader = Unpickler(file)
    tree = reader.load()
    for key in Unpickler(file).load():
        storage = reader.storages[key]
        start = file.tell() + 8
        count = int.from_bytes(content[start - 8 : start], "little")
        if count != storage.count or start + storage.num_bytes > len(content):
            raise ValueError(f"the data of storage {key[:40]!r} is incomplete")
        storage.content = memoryview(content)[start : start + storage.num_bytes]
        file.seek(start + storage.num_bytes)
    return tree


def _unwrapped(tree: Any) -> Mapping[Any, Any]:
    """Returns the weights inside a checkpoint, which also holds epochs, optimizers and so on."""
    for _ in range(4):  # a dictionary may contain itself
        if not isinstance(tree, Mapping):
            break
        inner = next((tree[key] for key in WRAPPERS if isinstance(tree.get(key), Mapping)), None)
        if inner is None:
            return tree
        tree = inner
    raise ValueError("it holds no dictionary of weights")


def _without_prefixes(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Removes the known prefixes that all names share."""
    while tensors:
        common = [prefix for prefix in PREFIXES if all(name.startswith(prefix) for name in tensors)]
        if not common:
            break
        tensors = {name.removeprefix(common[0]): array for name, array in tensors.items()}
    return tensors
