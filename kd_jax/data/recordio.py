"""Images in the record files of MXNet, the packs of insightface's training sets, without MXNet.

A `.rec` file is a sequence of records. A record has one or more parts. A part is a magic word, a
word with the kind of the part (3 bits) and the length of its content (29 bits), and the content,
padded to a multiple of four bytes. Content that contains the magic word is split there into parts.

The content of a record begins with a header: flag, label and two numbers. If the flag is not 0, it
is the number of float32 labels that follow. The rest is an image file.

In a pack of insightface record 0 has labels and no image. Its first label is the number of the
first record after the images. From there on, every identity has such a record too.

The `.idx` file has the number of each record and the byte at which it begins.
"""

import functools
import os
import pathlib
import struct
from collections.abc import Callable
from typing import BinaryIO, NamedTuple

import numpy as np

from kd_jax.core.errors import UsageError, reason
from kd_jax.data.local_files import open_file

_MAGIC = struct.pack("<I", 0xCED7230A)
_WORD = "<u4"
_LENGTH_BITS = 29
_WORD_LENGTH = 20  # characters of an int64
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)  # kinds of parts
_FOLLOWS: dict[int, tuple[int, ...]] = {
    _WHOLE: (),
    _FIRST: (_MIDDLE, _LAST),
    _MIDDLE: (_MIDDLE, _LAST),
    _LAST: (),
}
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"BM")  # of JPEG, PNG, WebP and BMP
_EXACT = 2**24  # float32 represents all integers up to here
_LARGEST = 2**53  # float64


class _Layout(NamedTuple):
    """Layout of a header: its size in bytes, and byte and type of the label."""

    size: int
    label_at: int
    label_type: str


_LAYOUTS = (_Layout(24, 4, "<f4"), _Layout(32, 8, "<f8"))  # as struct: IfQQ (MXNet), IdQQ


_HEAD = 8 + max(layout.size for layout in _LAYOUTS) + 4  # bytes up to the first label in a list


class ImageRecords:
    """The images of `NAME.rec` and `NAME.idx`. Threads can share an object; it can be pickled.

    Attributes:
        path: path of the `.rec` file.
        numbers: numbers of the records that hold images, int64 `[N]`, ascending.
        labels: first label of each of these images, int64 `[N]`.
        lengths: number of bytes of each of these records, or of its first part, int64 `[N]`.
    """

    def __init__(self, path: str):
        """Reads the index and the headers of all records.

        Raises:
            UsageError: if a file is missing or damaged, or the files do not belong together.
        """
        self.path = path
        self._index = str(pathlib.Path(path).with_suffix(".idx"))
        self.numbers, self._offsets = _read_index(self._index)
        heads = self._heads()
        self.lengths = self._part_lengths(heads)
        self._layout = self._find_layout()
        self._keep_images(heads)

    def __getstate__(self):
        return {key: value for key, value in self.__dict__.items() if key != "_file"}

    @functools.cached_property
    def _file(self) -> "_Descriptor":
        """The file. It is not mapped: a file that is truncated later would end the process."""
        try:
            with open_file(self.path) as file:
                return _Descriptor(file)
        except OSError as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: OSError) -> UsageError:
        return UsageError(
            f"{self.path} cannot be read ({reason(error)}): set data.source.path to the folder that"
            " holds train.rec and train.idx."
        )

    def _read(self, offset: int, length: int) -> bytes:
        """Returns the bytes at an offset, fewer at the end of the file; threads can call it."""
        try:
            return os.pread(self._file.number, length, offset)
        except OSError as error:
            raise self._unreadable(error) from error

    def _heads(self) -> np.ndarray:
        """Returns the first bytes of all records, uint8 `[N, _HEAD]`, with zeros after the end."""
        size = os.fstat(self._file.number).st_size
        if not size:
            raise self._unreadable(OSError("it is empty"))
        outside = (self._offsets < 0) | (self._offsets > size - 8)
        self._refuse(outside, "is beyond the end of the file")
        heads = b"".join(self._read(i, _HEAD).ljust(_HEAD, b"\0") for i in self._offsets.tolist())
        return np.frombuffer(heads, np.uint8).reshape(-1, _HEAD)

    def _damaged(self, row: int, what: str) -> UsageError:
        return UsageError(
            f"record {self.numbers[row]} of {self.path}, at byte {self._offsets[row]}, {what}:"
            f" restore it and {self._index}."
        )

    def _refuse(self, wrong: np.ndarray, what: str) -> None:
        """Raises `UsageError` for the first record that the mask `wrong` marks."""
        if wrong.any():
            raise self._damaged(int(np.argmax(wrong)), what)

    def _part_lengths(self, heads: np.ndarray) -> np.ndarray:
        size = os.fstat(self._file.number).st_size
        magic = np.frombuffer(_MAGIC, _WORD)
        self._refuse(_numbers(heads, 0, _WORD) != magic, "does not begin with the magic word")
        words = _numbers(heads, 4, _WORD).astype(np.int64)
        kinds, lengths = words >> _LENGTH_BITS, words % 2**_LENGTH_BITS
        self._refuse(~np.isin(kinds, (_WHOLE, _FIRST)), "is not the first part of a record")
        self._refuse(self._offsets + 8 + lengths > size, "is longer than the rest of the file")
        self._refuse(lengths < _LAYOUTS[0].size, "is too short for its header")
        return lengths

    def _find_layout(self) -> _Layout:
        """Returns the layout with which the first record ends after its labels, or has an image."""
        content = self._content(0)
        (flag,) = struct.unpack_from("<I", content)
        for layout in _LAYOUTS:
            start = layout.size + 4 * flag
            if len(content) == start or content[start:].startswith(_SIGNATURES):
                return layout
        raise self._damaged(0, "holds neither a list of labels nor an image file")

    def _keep_images(self, heads: np.ndarray) -> None:
        """Sets the labels, and leaves out the records without images."""
        layout = self._layout
        flags = _numbers(heads, 8, _WORD).astype(np.int64)
        starts = layout.size + 4 * flags
        self._refuse(starts > self.lengths, "is too short for its labels")
        labels = _numbers(heads, 8 + layout.label_at, layout.label_type).astype(np.float64)
        several = flags > 0
        labels[several] = _numbers(heads[several], 8 + layout.size, "<f4")
        images = starts < self.lengths
        whole = (labels >= 0) & (labels == np.floor(labels)) & (labels < _LARGEST)
        self._refuse(images & ~whole, "has a label that is not an integer of 0 or more")
        if self.numbers[0] == 0 and not images[0] and abs(labels[0]) < _EXACT:
            expected = int(labels[0]) - 1
            if images.sum() != expected:
                raise UsageError(
                    f"{self.path} has a count of {expected} images, but {self._index} leads to"
                    f" {images.sum()}: restore both files."
                )
        if not images.any():
            raise UsageError(f"{self.path} holds no images: restore the file.")
        self.numbers, self._offsets = self.numbers[images], self._offsets[images]
        self.lengths, self.labels = self.lengths[images], labels[images].astype(np.int64)

    def rows(self, numbers: np.ndarray) -> np.ndarray:
        """Returns the rows of `self.numbers` in which the given numbers are, int64 `[K]`."""
        return np.searchsorted(self.numbers, numbers)

    def image(self, number: int) -> bytes:
        """Returns the image file in a record."""
        content = self._content(int(self.rows(np.array([number]))[0]))
        (flag,) = struct.unpack_from("<I", content)
        return content[self._layout.size + 4 * flag :]

    def _content(self, row: int) -> bytes:
        """Returns the content of a record, its parts joined by the magic word between them."""
        parts: list[bytes] = []
        offset = int(self._offsets[row])
        known: tuple[int, ...] = (_WHOLE, _FIRST)
        while known:
            head = self._read(offset, 8)
            word = int.from_bytes(head[4:], "little")
            kind, length = word >> _LENGTH_BITS, word % 2**_LENGTH_BITS
            part = self._read(offset + 8, length) if head[:4] == _MAGIC else b""
            if head[:4] != _MAGIC or kind not in known or len(part) < length:
                raise self._damaged(row, f"is damaged in its part {len(parts) + 1}")
            parts.append(part)
            offset += 8 + length + -length % 4
            known = _FOLLOWS[kind]
        return _MAGIC.join(parts)


class _Descriptor:
    """A file that is open as long as this object exists."""

    def __init__(self, file: BinaryIO):
        self.number = os.dup(file.fileno())

    def __del__(self, close: Callable[[int], None] = os.close):  # `os` may be gone at the exit
        close(self.number)


def _numbers(heads: np.ndarray, column: int, kind: str) -> np.ndarray:
    """Returns the numbers of a type at a column of the first bytes of records, `[N]`."""
    end = column + np.dtype(kind).itemsize
    return np.ascontiguousarray(heads[:, column:end]).view(kind)[:, 0]


def _read_index(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns numbers of the records, ascending, and their offsets in bytes, int64 `[N]` each."""
    try:
        with open_file(path) as file:
            words = file.read().split()
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read ({error.strerror}): it must be in the folder of the .rec file."
        ) from error
    try:
        if max(map(len, words), default=0) > _WORD_LENGTH:  # each would take as much memory
            raise ValueError("it has a number that is too long")
        table = np.array(words, np.bytes_).astype(np.int64).reshape(-1, 2)
    except (OverflowError, ValueError) as error:
        raise UsageError(
            f"{path} is damaged ({reason(error)}): each line must hold a number and an offset."
        ) from error
    if not len(table) or len(np.unique(table[:, 0])) < len(table):
        raise UsageError(f"{path} is empty or names a record twice: restore the file.")
    numbers, offsets = table[np.argsort(table[:, 0])].T.copy()
    return numbers, offsets
