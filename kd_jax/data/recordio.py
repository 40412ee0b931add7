"""Images in the record files of MXNet, as insightface packs its training sets, without MXNet.

A `.rec` file is a row of records, each a magic word, a word with the kind of the part (3 bits) and
its length (29 bits), and the content, filled up to a multiple of four bytes. Content that holds the
magic word itself is split there into parts. The content begins with a header: flag, label and two
numbers; if the flag is not 0, so many float32 labels follow. The rest is an image file. In a pack
of insightface record 0 has labels and no image, the first being the number of the first record
after the images, and from there on every identity has such a record too. The `.idx` file names the
number of each record and where it begins.
"""

import functools
import pathlib
import struct
from typing import NamedTuple

import numpy as np

from kd_jax.errors import UsageError

_MAGIC = struct.pack("<I", 0xCED7230A)
_WORD = "<u4"
_LENGTH_BITS = 29
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)  # kinds of parts
_FOLLOWS = {_WHOLE: (), _FIRST: (_MIDDLE, _LAST), _MIDDLE: (_MIDDLE, _LAST), _LAST: ()}
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"BM")  # of JPEG, PNG, WebP and BMP
_EXACT = 2**24  # up to here float32 holds every whole number


class _Layout(NamedTuple):
    """How a header is packed."""

    size: int
    label_at: int
    label_type: str


_LAYOUTS = (_Layout(24, 4, "<f4"), _Layout(32, 8, "<f8"))  # struct's IfQQ, MXNet's own, and IdQQ


class ImageRecords:
    """The images of `NAME.rec`, found by `NAME.idx`; threads can share it, and it can be pickled.

    Attributes:
        path: of the `.rec` file.
        numbers: of the records that hold images, int64 `[N]`, ascending.
        labels: of these images, the first label of each, int64 `[N]`.
        lengths: bytes of each of these records, of its first part if it is split, int64 `[N]`.
    """

    def __init__(self, path: str):
        """Reads the index and the headers of all records.

        Raises:
            UsageError: if a file is missing or damaged, or the two do not belong together.
        """
        self.path = path
        self._index = str(pathlib.Path(path).with_suffix(".idx"))
        self.numbers, self._places = _read_index(self._index)
        self.lengths = self._part_lengths()
        self._layout = self._find_layout()
        self._keep_images()

    def __getstate__(self):
        return {key: value for key, value in self.__dict__.items() if key != "_bytes"}

    @functools.cached_property
    def _bytes(self) -> np.ndarray:
        """The file, uint8; only what is used is read."""
        try:
            return np.memmap(self.path, np.uint8, "r")
        except (OSError, ValueError) as error:  # a file without content is a ValueError
            raise UsageError(
                f"{self.path} cannot be read ({error}): set data.source.path to the folder that"
                " holds train.rec and train.idx."
            ) from error

    def _at(self, places: np.ndarray, kind: str) -> np.ndarray:
        """The numbers of a type that stand at places of the file, `[len(places)]`."""
        span = np.arange(np.dtype(kind).itemsize)
        return np.ascontiguousarray(self._bytes[places[:, None] + span]).view(kind)[:, 0]

    def _damaged(self, row: int, what: str) -> UsageError:
        return UsageError(
            f"record {self.numbers[row]} of {self.path}, at byte {self._places[row]}, {what}:"
            f" restore it and {self._index}."
        )

    def _refuse(self, wrong: np.ndarray, what: str) -> None:
        """Raises `UsageError` for the first record in a mask."""
        if wrong.any():
            raise self._damaged(int(np.argmax(wrong)), what)

    def _part_lengths(self) -> np.ndarray:
        size = len(self._bytes)
        self._refuse((self._places < 0) | (self._places > size - 8), "lies beyond the file's end")
        magic = np.frombuffer(_MAGIC, _WORD)
        self._refuse(self._at(self._places, _WORD) != magic, "has no record's mark")
        words = self._at(self._places + 4, _WORD).astype(np.int64)
        kinds, lengths = words >> _LENGTH_BITS, words % 2**_LENGTH_BITS
        self._refuse(~np.isin(kinds, (_WHOLE, _FIRST)), "is no beginning of a record")
        self._refuse(self._places + 8 + lengths > size, "is cut off by the file's end")
        self._refuse(lengths < _LAYOUTS[0].size, "is too short for its header")
        return lengths

    def _find_layout(self) -> _Layout:
        """The layout by which the first record ends with its labels, or an image follows them."""
        content = self._content(0)
        (flag,) = struct.unpack_from("<I", content)
        for layout in _LAYOUTS:
            start = layout.size + 4 * flag
            if len(content) == start or content[start:].startswith(_SIGNATURES):
                return layout
        raise self._damaged(0, "holds neither a list of labels nor an image file")

    def _keep_images(self) -> None:
        """Sets the labels, and forgets the records that hold nothing else."""
        layout, places = self._layout, self._places + 8
        flags = self._at(places, _WORD).astype(np.int64)
        starts = layout.size + 4 * flags
        self._refuse(starts > self.lengths, "is too short for its labels")
        labels = self._at(places + layout.label_at, layout.label_type).astype(np.float64)
        several = flags > 0
        labels[several] = self._at(places[several] + layout.size, "<f4")
        images = starts < self.lengths
        whole = (labels >= 0) & (labels == np.floor(labels))
        self._refuse(images & ~whole, "has a label that is no whole number from 0 on")
        if self.numbers[0] == 0 and not images[0] and labels[0] < _EXACT:
            expected = int(labels[0]) - 1
            if images.sum() != expected:
                raise UsageError(
                    f"{self.path} says that it holds {expected} images, but {self._index} leads to"
                    f" {images.sum()}: restore both files."
                )
        if not images.any():
            raise UsageError(f"{self.path} holds no images: restore the file.")
        self.numbers, self._places = self.numbers[images], self._places[images]
        self.lengths, self.labels = self.lengths[images], labels[images].astype(np.int64)

    def rows(self, numbers: np.ndarray) -> np.ndarray:
        """Where records with images stand in `numbers`."""
        return np.searchsorted(self.numbers, numbers)

    def image(self, number: int) -> bytes:
        """The image file in a record."""
        content = self._content(int(self.rows(number)))
        (flag,) = struct.unpack_from("<I", content)
        return content[self._layout.size + 4 * flag :]

    def _content(self, row: int) -> bytes:
        """A record without its marks, its parts joined by the magic word that split them."""
        parts, place, known = [], int(self._places[row]), (_WHOLE, _FIRST)
        while known:
            head = self._bytes[place : place + 8].tobytes()
            word = int.from_bytes(head[4:], "little")
            kind, length = word >> _LENGTH_BITS, word % 2**_LENGTH_BITS
            part = self._bytes[place + 8 : place + 8 + length].tobytes()
            if head[:4] != _MAGIC or kind not in known or len(part) < length:
                raise self._damaged(row, f"is damaged in its part {len(parts) + 1}")
            parts.append(part)
            place += 8 + length + -length % 4
            known = _FOLLOWS[kind]
        return _MAGIC.join(parts)


def _read_index(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the records, ascending, and where they begin, int64 `[N]` each."""
    try:
        text = pathlib.Path(path).read_bytes()
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read ({error.strerror}): it must lie beside the .rec file."
        ) from error
    try:
        table = np.array(text.split()).astype(np.int64).reshape(-1, 2)
    except ValueError as error:
        raise UsageError(
            f"{path} is damaged ({error}): each line must hold a number and a place."
        ) from error
    if not len(table) or len(np.unique(table[:, 0])) < len(table):
        raise UsageError(f"{path} is empty or names a record twice: restore the file.")
    return tuple(table[np.argsort(table[:, 0])].T.copy())
