"""Pairs of faces in the pickle files of insightface (`lfw.bin`); no code in a file is executed."""

import io
import pickle
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from kd_jax.core.errors import UsageError, reason
from kd_jax.data.local_files import open_file

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
        self.content = b""
        self.dtype: Any = np.uint8

    def __setstate__(self, state: Any) -> None:
        _, _, kind, _, self.content = state
        self.dtype = kind.dtype

    @property
    def values(self) -> np.ndarray:
        return np.frombuffer(self.content, self.dtype)


def _from_buffer(content: Any, kind: _Dtype, *_: object) -> _Array:
    array = _Array()
    array.content, array.dtype = content, kind.dtype
    return array


def _scalar(kind: _Dtype, content: bytes) -> np.generic:
    return np.frombuffer(content, kind.dtype)[0]


class _Function:
    """A function that a pickle can call and cannot change."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., object]):
        self._function = function

    def __call__(self, *args: Any) -> object:
        return self._function(*args)

    def __setstate__(self, state: object) -> None:
        """Refuses changes by a pickle."""
        raise pickle.UnpicklingError("it changes a function")


_REPLACEMENTS = {
    "numpy.ndarray": _Array,
    "numpy.dtype": _Dtype,
    "numpy.core.multiarray._reconstruct": _Array,
    "numpy.core.multiarray.scalar": _Function(_scalar),
    "numpy.core.numeric._frombuffer": _Function(_from_buffer),
}
"""Everything that a pack can call, by the name in the pickle, and `_codecs.encode`. All other names
are refused."""


# The Unpickler in Python: the one in C allocates as much memory as a broken file demands.
class _Unpickler(pickle._Unpickler):
    """Reads a pickle in memory, in which a length cannot exceed the rest of the file."""

    def __init__(self, content: bytes):
        super().__init__(io.BytesIO(content), encoding="bytes")
        self._encoded: dict[str, bytes] = {}

    def _latin1(self, text: str, *_: object) -> bytes:
        """Encodes a text as latin1; a text that a pickle repeats is stored once."""
        return self._encoded.setdefault(text, text.encode("latin1"))

    def find_class(self, module: str, name: str) -> Any:
        """Returns the replacement of a name; raises `UnpicklingError` for all other names."""
        word = f"{module}.{name}".replace("numpy._core.", "numpy.core.")  # the name in NumPy 2
        if word == "_codecs.encode":  # Python 3 writes bytes for Python 2 with it
            return _Function(self._latin1)
        if word not in _REPLACEMENTS:
            raise pickle.UnpicklingError(f"it calls {word}, which could do harm")
        return _REPLACEMENTS[word]

    # A bytearray becomes bytes, which are read without memory for the length that is announced.
    dispatch: ClassVar = {
        **pickle._Unpickler.dispatch,
        pickle.BYTEARRAY8[0]: pickle._Unpickler.dispatch[pickle.BINBYTES8[0]],
    }


def _file(image: object) -> bytes:
    """Returns an image without a copy, because a pickle can repeat an image at no cost."""
    content = image.content if isinstance(image, _Array) else image
    if not isinstance(content, bytes):
        raise TypeError(f"an image is {type(content).__name__}")
    return content


def _truth(same: Any) -> np.ndarray:
    if isinstance(same, _Array):
        return same.values
    if not all(isinstance(value, bool | int | np.generic) for value in same):
        raise TypeError("the truth of a pair is no boolean")
    return np.array(list(same))


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
        with open_file(path) as file:
            images, same = _Unpickler(file.read()).load()
        files = [_file(image) for image in images]
        same = _truth(same)
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}): name a .bin file.") from error
    except Exception as error:  # a damaged pickle fails in many ways
        raise UsageError(
            f"{path} is no pack of faces ({reason(error)}): download or copy the file again."
        ) from error
    if not files or same.dtype != np.bool_ or len(files) != 2 * same.size:
        raise UsageError(
            f"{path} holds {len(files)} images and {same.dtype} {same.shape}: it must be two"
            " images and one boolean for each pair."
        )
    return files, same
