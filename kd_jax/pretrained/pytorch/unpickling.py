"""Pickles of tensors: rebuilds arrays without PyTorch; no code in a file is executed.

PyTorch stores a tensor as a call of a function of `torch._utils` on a storage, and a storage as a
reference. Here each of these calls has a replacement that only records numbers. Everything else
that a pickle can call is refused by name.
"""

import math
import pickle
from collections.abc import Callable, Mapping
from typing import IO, Any

import ml_dtypes
import numpy as np

STORAGES: dict[str, Any] = {
    "BFloat16Storage": ml_dtypes.bfloat16,
    "BoolStorage": np.bool_,
    "ByteStorage": np.uint8,
    "CharStorage": np.int8,
    "ComplexDoubleStorage": np.complex128,
    "ComplexFloatStorage": np.complex64,
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "IntStorage": np.int32,
    "LongStorage": np.int64,
    "ShortStorage": np.int16,
}
"""The dtype of each kind of storage in PyTorch."""

_NUMPY_DTYPES = ("b1", "f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")


def printable(text: str, length: int = 100) -> str:
    """Returns the first characters of a text from a file, with control characters escaped."""
    return repr(text[:length])[1:-1]


class Refused(pickle.UnpicklingError):
    """A pickle calls something that is no part of a tensor."""


class _Sealed:
    """An object that a pickle can use and cannot change."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        """Refuses changes by a pickle."""
        raise Refused("it changes a function or a tensor")


class Storage(_Sealed):
    """The numbers of one or more tensors, or a part of another storage.

    Attributes:
        dtype: dtype of the numbers.
        count: number of elements.
        content: the elements as bytes, little-endian; None until the file's data is read, and for
            parts.
    """

    __slots__ = ("_start", "_whole", "content", "count", "dtype")

    def __init__(self, dtype: np.dtype, count: int):
        if type(count) is not int or count < 0:
            raise pickle.UnpicklingError("a storage has no size")
        self.dtype, self.count = dtype, count
        self.content: bytes | memoryview | None = None
        self._whole, self._start = self, 0

    def part(self, start: int, count: int) -> "Storage":
        """Returns `count` elements from `start` as a storage; files of PyTorch 0.1 have those."""
        part = Storage(self.dtype, count)
        if type(start) is not int or not 0 <= start <= self.count - count:
            raise pickle.UnpicklingError("a part exceeds its storage")
        part._whole, part._start = self, start
        return part

    @property
    def num_bytes(self) -> int:
        """Returns the number of bytes of all elements."""
        return self.count * self.dtype.itemsize

    def array(self) -> np.ndarray:
        """Returns all elements.

        Raises:
            UnpicklingError: if the file's data has none for this storage.
        """
        if self._whole.content is None:
            raise pickle.UnpicklingError("a storage has no content")
        whole = np.frombuffer(self._whole.content, self.dtype, self._whole.count)
        return whole[self._start : self._start + self.count]


class Tensor(_Sealed):
    """A view of a storage: its first element, its shape, and its strides in elements."""

    __slots__ = ("offset", "shape", "storage", "strides")

    def __init__(self, storage: Storage, offset: int, shape: Any, strides: Any, *_: object):
        self.storage, self.offset = storage, offset
        self.shape, self.strides = tuple(shape), tuple(strides)

    def array(self) -> np.ndarray:
        """Returns the tensor as a read-only array, which shares the memory of the storage.

        Raises:
            UnpicklingError: if it is no view of its storage.
        """
        storage, numbers = self.storage, (self.offset, *self.shape, *self.strides)
        if not isinstance(storage, Storage) or len(self.shape) != len(self.strides):
            raise pickle.UnpicklingError("a tensor has no storage or no shape")
        if not all(type(n) is int and n >= 0 for n in numbers):
            raise pickle.UnpicklingError("the shape of a tensor is not made of numbers")
        if not math.prod(self.shape):
            return np.zeros(self.shape, storage.dtype)
        steps = ((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))
        if self.offset + sum(steps) >= storage.count:
            raise pickle.UnpicklingError("a tensor exceeds its storage")
        strides = [stride * storage.dtype.itemsize for stride in self.strides]
        flat = storage.array()[self.offset :]
        return np.lib.stride_tricks.as_strided(flat, self.shape, strides, writeable=False)


class _Kind(_Sealed):
    """Replaces a class of storages."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: Any):
        self.dtype = np.dtype(dtype)


class _Function(_Sealed):
    """Replaces a function or class that a pickle may call."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., object]):
        self._function = function

    def __call__(self, *args: Any) -> object:
        return self._function(*args)


class _Dictionary(dict):
    """Replaces OrderedDict and Counter; their attributes are dropped."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        """Ignores attributes, such as the `_metadata` of a `state_dict`."""


class _Ignored:
    """Replaces objects without tensors: the options of a training script, a device, a number."""

    __slots__ = ()

    def __init__(self, *_: object):
        pass

    def __setstate__(self, state: object) -> None:
        """Ignores the content."""


class _NumpyDtype:
    """Replaces NumPy's dtype."""

    __slots__ = ("dtype",)

    def __init__(self, name: str, *_: object):
        if name not in _NUMPY_DTYPES:
            raise Refused("it holds NumPy's objects")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: Any) -> None:
        """Takes the byte order, the only part of the state that plain numbers have."""
        self.dtype = self.dtype.newbyteorder(">" if state[1] == ">" else "<")


class NumpyArray:
    """Replaces NumPy's array, and the function that makes an empty one before it is filled."""

    __slots__ = ("values",)

    def __init__(self, *_: object):
        self.values: np.ndarray = np.zeros(0)

    def __setstate__(self, state: Any) -> None:
        """Takes shape, dtype, order and content."""
        _, shape, kind, fortran, content = state
        content = content.encode("latin1") if isinstance(content, str) else content
        flat = np.frombuffer(content, kind.dtype)
        self.values = flat.reshape(shape, order="F" if fortran else "C")


def _from_buffer(content: Any, kind: _NumpyDtype, shape: Any, order: str) -> NumpyArray:
    array = NumpyArray()
    array.values = np.frombuffer(content, kind.dtype).reshape(
        shape, order="F" if order == "F" else "C"
    )
    return array


def _latin1(text: str, *_: object) -> bytes:
    return text.encode("latin1")


def _parameter(tensor: Tensor, *_: object) -> Tensor:
    return tensor


def _tensor_v1(storage: Storage, offset: int, shape: Any, strides: Any) -> Tensor:
    return Tensor(storage, offset, shape, strides)


_CLASSES: dict[str, Any] = {
    "argparse.Namespace": _Ignored,  # RepDistiller's scripts store their options
    "numpy.core.multiarray._reconstruct": _Function(NumpyArray),
    "numpy.dtype": _NumpyDtype,
    "numpy.ndarray": NumpyArray,
}
_FUNCTIONS: dict[str, Callable[..., object]] = {
    "_codecs.encode": _latin1,  # Python 3 writes bytes for Python 2 with it
    "collections.Counter": _Dictionary,
    "collections.OrderedDict": _Dictionary,
    "numpy.core.multiarray.scalar": _Ignored,
    "numpy.core.numeric._frombuffer": _from_buffer,
    "torch.Size": tuple,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._utils._rebuild_tensor": _tensor_v1,
    "torch._utils._rebuild_tensor_v2": Tensor,
    "torch.device": _Ignored,
}
_REPLACEMENTS = {
    **_CLASSES,
    **{name: _Function(function) for name, function in _FUNCTIONS.items()},
    **{f"torch.{name}": _Kind(dtype) for name, dtype in STORAGES.items()},
}
"""Everything that a file can call, by the name in the pickle. All other names are refused."""


# The Unpickler in Python: the one in C allocates as much memory as a broken file demands.
class Unpickler(pickle._Unpickler):
    """Reads one pickle and collects its storages.

    Attributes:
        storages: all storages by key, without content.
    """

    def __init__(self, file: IO[bytes]):
        """Starts at the present position of a file."""
        super().__init__(file, encoding="latin1")
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Returns the replacement of a name; raises `Refused` for all other names."""
        word = f"{module}.{name}".replace("numpy._core.", "numpy.core.")  # the name in NumPy 2
        if word not in _REPLACEMENTS:
            raise Refused(f"it calls {printable(word)}")
        return _REPLACEMENTS[word]

    def persistent_load(self, pid: Any) -> Storage:
        """Returns the storage of a reference `("storage", kind, key, device, count, view)`."""
        word, kind, key, _, count, *views = pid
        if word != "storage" or not isinstance(kind, _Kind) or not isinstance(key, str):
            raise pickle.UnpicklingError("a reference names no storage")
        storage = self.storages.setdefault(key, Storage(kind.dtype, count))
        if (storage.dtype, storage.count) != (kind.dtype, count):
            raise pickle.UnpicklingError("a storage has two sizes")
        if not views or views[0] is None:
            return storage
        _, start, part = views[0]
        return storage.part(start, part)


def arrays(tree: Mapping[Any, Any]) -> dict[str, np.ndarray]:
    """Returns the tensors and arrays of a dictionary by name; all other values are left out."""
    found = {}
    for name, value in tree.items():
        if isinstance(value, NumpyArray):
            value = value.values
        elif isinstance(value, Tensor):
            value = value.array()
        if isinstance(name, str) and isinstance(value, np.ndarray):
            found[name] = value
    return found
