"""The safetensors format: eight bytes with the length of a JSON header, the header, the numbers."""

import json
import math
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

DTYPES: dict[str, Any] = {
    "BF16": ml_dtypes.bfloat16,
    "BOOL": np.bool_,
    "F16": np.float16,
    "F32": np.float32,
    "F64": np.float64,
    "I16": np.int16,
    "I32": np.int32,
    "I64": np.int64,
    "I8": np.int8,
    "U16": np.uint16,
    "U32": np.uint32,
    "U64": np.uint64,
    "U8": np.uint8,
}
"""The dtype of each name in a header."""

_LONGEST_HEADER = 100_000_000


def serialize(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """Returns a file with arrays by name, and with texts by key in `__metadata__`.

    Raises:
        KeyError: if the format has no name for a dtype.
    """
    names = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    parts, end = [], 0
    for name in sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name)):
        array = np.asarray(arrays[name])
        first, end = end, end + array.nbytes
        header[name] = {
            "dtype": names[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [first, end],
        }
        parts.append(array.tobytes())
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the arrays begin at a multiple of 8, as in the original
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])


def read_metadata(content: bytes) -> dict[str, str]:
    """Returns the texts in `__metadata__` of a file; none if there are none.

    Raises:
        ValueError: if the file is not of this format.
    """
    if not is_safetensors(content):
        raise ValueError("it has no header")
    start = 8 + int.from_bytes(content[:8], "little")
    texts = json.loads(content[8:start].decode("utf-8")).get("__metadata__", {})
    return {str(key): str(text) for key, text in texts.items()} if isinstance(texts, dict) else {}


def is_safetensors(content: bytes) -> bool:
    """Returns whether a file begins like one of this format."""
    length = int.from_bytes(content[:8], "little")
    return content[8:9] == b"{" and length <= min(len(content) - 8, _LONGEST_HEADER)


def parse(content: bytes) -> dict[str, np.ndarray]:
    """Returns the arrays of a file by name; they share its memory and are read-only.

    Raises:
        ValueError: if the file breaks any rule of the format: each name once, known dtypes, and
            ranges that fit the shapes and cover all numbers without a gap or an overlap.
    """
    if not is_safetensors(content):
        raise ValueError("it has no header")
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start].decode("utf-8"), object_pairs_hook=_unique)
    header.pop("__metadata__", None)
    found, ranges = {}, []
    for name, entry in header.items():
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise ValueError(f"the entry {name[:100]!r} is incomplete")
        if not isinstance(entry["dtype"], str) or entry["dtype"] not in DTYPES:
            raise ValueError(f"the dtype of {name[:100]!r} is unknown")
        dtype = np.dtype(DTYPES[entry["dtype"]])
        shape, offsets = entry["shape"], entry["data_offsets"]
        if not _whole_numbers(shape) or not _whole_numbers(offsets) or len(offsets) != 2:
            raise ValueError(f"the shape of {name[:100]!r} is not made of numbers")
        first, last = offsets
        count = math.prod(shape)
        if last - first != count * dtype.itemsize or start + last > len(content):
            raise ValueError(f"the numbers of {name[:100]!r} do not fit its shape")
        ranges.append((first, last))
        found[name] = np.frombuffer(content, dtype, count, start + first).reshape(shape)
    end = 0
    for first, last in sorted(ranges):
        if first != end:
            raise ValueError("its arrays have a gap or an overlap")
        end = last
    if start + end != len(content):
        raise ValueError("it has more bytes than its arrays")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Makes a JSON object; raises `ValueError` for a name that is there twice."""
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("its header has a name twice")
    return values


def _whole_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(type(n) is int and n >= 0 for n in values)
