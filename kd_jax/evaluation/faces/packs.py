"""Pairs of faces in the pickle files of insightface (`lfw.bin`); no code in a file is executed."""

import pickle
from typing import Any

import numpy as np

from kd_jax.core.errors import UsageError

_DTYPES = {"u1": np.uint8, "b1": np.bool_}


class _Dtype:
    """Replaces NumPy's dtype in a pickle: bytes or booleans, nothing else."""

    def __init__(self, name: bytes | str, *_: object):
        self.dtype = _DTYPES[name.decode() if isinstance(name, bytes) else name]

    def __setstate__(self, state: object) -> None:
        """Ignores the byte order: one byte has none."""


class _Array:
    """Replaces NumPy's array, and the function that makes an empty one before it is filled."""

    def __init__(self, *_: object):
        self.values: np.ndarray = np.empty(0, np.uint8)

    def __setstate__(self, state: Any) -> None:
        _, _, kind, _, content = state
        self.values = np.frombuffer(content, kind.dtype)


def _from_buffer(content: Any, kind: _Dtype, *_: object) -> _Array:
    array = _Array()
    array.values = np.frombuffer(content, kind.dtype)
    return array


def _scalar(kind: _Dtype, content: bytes) -> np.generic:
    return np.frombuffer(content, kind.dtype)[0]


def _latin1(text: str, *_: object) -> bytes:
    return text.encode("latin1")


_REPLACEMENTS = {
    "_codecs.encode": _latin1,  # Python 3 writes bytes for Python 2 with it
    "numpy.ndarray": _Array,
    "numpy.dtype": _Dtype,
    "numpy.core.multiarray._reconstruct": _Array,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _from_buffer,
}
"""Everything that a pack can call, by the name in the pickle. All other names are refused."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Returns the replacement of a name; raises `UnpicklingError` for all other names."""
        word = f"{module}.{name}".replace("numpy._core.", "numpy.core.")  # the name in NumPy 2
        if word not in _REPLACEMENTS:
            raise pickle.UnpicklingError(f"it calls {word}, which could do harm")
        return _REPLACEMENTS[word]


def _file(image: object) -> bytes:
    if isinstance(image, _Array):
        return image.values.tobytes()
    if not isinstance(image, bytes | bytearray):
        raise TypeError(f"an image is {type(image).__name__}")
    return bytes(image)


def read_pack(path: str) -> tuple[list[bytes], np.ndarray]:
    """Reads a pack: two encoded images per pair, and True for each pair of one person.

    Packs that were written by Python 2 can be read, too.

    Args:
        path: path of the pack.

    Returns:
        The image files, `2P` of them, and bool `[P]`.

    Raises:
        UsageError: if the file cannot be read, is no such pack, or calls any other code.
    """
    try:
        with open(path, "rb") as file:
            images, same = _Unpickler(file, encoding="bytes").load()
        files = [_file(image) for image in images]
        same = same.values if isinstance(same, _Array) else np.array(same)
    except MemoryError:
        raise
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}): name a .bin file.") from error
    except Exception as error:  # a damaged pickle fails in many ways
        raise UsageError(
            f"{path} is no pack of faces ({error}): download or copy the file again."
        ) from error
    if not files or same.dtype != np.bool_ or len(files) != 2 * same.size:
        raise UsageError(
            f"{path} holds {len(files)} images and {same.dtype} {same.shape}: it must be two"
            " images and one boolean for each pair."
        )
    return files, same
