"""Pairs of faces as insightface pickles them (`lfw.bin`), read so that nothing in them can run."""

import pickle

import numpy as np

from kd_jax.errors import UsageError

_NUMBERS = {"u1": np.uint8, "b1": np.bool_}


class _Kind:
    """Stands for NumPy's dtype: bytes or truth values, nothing else."""

    def __init__(self, name, *_):
        self.kind = _NUMBERS[name.decode() if isinstance(name, bytes) else name]

    def __setstate__(self, state):
        """Leaves the order of bytes as it is: one byte has none."""


class _Array:
    """Stands for NumPy's array and for what makes an empty one to be filled."""

    def __init__(self, *_):
        self.values = np.empty(0, np.uint8)

    def __setstate__(self, state):
        _, _, kind, _, content = state
        self.values = np.frombuffer(content, kind.kind)


def _from_buffer(content, kind, *_) -> _Array:
    array = _Array()
    array.values = np.frombuffer(content, kind.kind)
    return array


def _scalar(kind, content) -> np.generic:
    return np.frombuffer(content, kind.kind)[0]


def _latin1(text, *_) -> bytes:
    return text.encode("latin1")


_STAND_INS = {
    "_codecs.encode": _latin1,  # how Python 3 writes bytes that Python 2 shall read
    "numpy.ndarray": _Array,
    "numpy.dtype": _Kind,
    "numpy.core.multiarray._reconstruct": _Array,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _from_buffer,
}
"""All that a pack can call, by the name that it uses: nothing else is ever reached."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        word = f"{module}.{name}".replace("numpy._core.", "numpy.core.")  # its name from NumPy 2 on
        if word not in _STAND_INS:
            raise pickle.UnpicklingError(f"it calls {word}, which could do harm")
        return _STAND_INS[word]


def _file(image) -> bytes:
    if isinstance(image, _Array):
        return image.values.tobytes()
    if not isinstance(image, bytes | bytearray):
        raise TypeError(f"an image is {type(image).__name__}")
    return bytes(image)


def read_pack(path: str) -> tuple[list[bytes], np.ndarray]:
    """Reads a pack: encoded images, two for each pair, and whether a pair shows one person.

    Packs of Python 2 can be read too.

    Returns:
        The image files, `2P` of them, and bool `[P]`.

    Raises:
        UsageError: if the file cannot be read, is no such pack, or asks for any other code.
    """
    try:
        with open(path, "rb") as file:
            images, same = _Unpickler(file, encoding="bytes").load()
        images = [_file(image) for image in images]
        same = same.values if isinstance(same, _Array) else np.array(same)
    except MemoryError:
        raise
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}): name a .bin file.") from error
    except Exception as error:  # a damaged pickle fails in many ways
        raise UsageError(
            f"{path} is no pack of faces ({error}): get the file from where it comes again."
        ) from error
    if not images or same.dtype != np.bool_ or len(images) != 2 * same.size:
        raise UsageError(
            f"{path} holds {len(images)} images and {same.dtype} {same.shape}: it must be two"
            " images and one truth value for each pair."
        )
    return images, same
