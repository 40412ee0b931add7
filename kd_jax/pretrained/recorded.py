"""Recorded outputs of a teacher of any kind: files, and their assignment to images."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from kd_jax.core.errors import UsageError
from kd_jax.data.npz_files import read_npz
from kd_jax.models.recorded import COLLECTION

PyTree = Any

_NAMES = ("logits", "embeddings", "embedding", "names")  # of arrays
_BLOCK = 2**14  # rows that are checked at a time


@dataclasses.dataclass(frozen=True, eq=False)
class RecordedOutputs:
    """The content of a file of recorded outputs.

    Attributes:
        path: the file.
        logits: `[M, C]`, or None.
        embedding: `[M, D]`, or None.
        names: names of the images, `[M]`: paths below the folder of the source, or positions in
            its split. None means positions 0 to M - 1.
    """

    path: str
    logits: np.ndarray | None
    embedding: np.ndarray | None
    names: np.ndarray | None

    def select(self, names: np.ndarray | None, key: str) -> np.ndarray:
        """Returns the rows of some images, int64 `[N]`.

        Args:
            names: names of the images in their source; None if they have none.
            key: option that names the file, for errors.

        Raises:
            UsageError: if an image was not recorded, or was recorded twice.
        """
        number = len(self.names) if self.names is not None else self._length
        recorded = np.arange(number) if self.names is None else self.names
        if names is None:
            raise UsageError(f"{key}: these images have no names or positions in their source.")
        rows = {_word(name): row for row, name in enumerate(recorded)}
        if len(rows) < number:
            raise UsageError(f"{key} = {self.path!r} names an image twice: record each once.")
        missing = [name for name in names if _word(name) not in rows]
        if missing:
            raise UsageError(
                f"{key} = {self.path!r} has no outputs of {len(missing)} of the {len(names)}"
                f" training images, first {_word(missing[0])!r}: record them, with the names that"
                " the source uses."
            )
        return np.array([rows[_word(name)] for name in names], np.int64)

    @property
    def _length(self) -> int:
        table = self.embedding if self.logits is None else self.logits
        return 0 if table is None else len(table)

    def variables(self, rows: np.ndarray, *, center: bool) -> PyTree:
        """Returns the variables of `kd_jax.models.recorded.Recorded`.

        Args:
            rows: rows of the images in the order of the training set.
            center: subtract the mean of the chosen embeddings, and then divide each by its length.
                A direction that all embeddings share hides the differences between images.
        """
        tables = {}
        for name, table in (("logits", self.logits), ("embedding", self.embedding)):
            if table is None:
                continue
            chosen = np.asarray(table[rows], np.float32)
            if name == "embedding" and center:
                chosen = chosen - chosen.mean(0, dtype=np.float64).astype(np.float32)
                norms = np.linalg.norm(chosen, axis=1, keepdims=True)
                chosen = chosen / np.maximum(norms, 1e-12)
            tables[name] = jnp.asarray(chosen)
        return {COLLECTION: tables}


def read_recorded(path: str, key: str) -> RecordedOutputs:
    """Reads an .npz file with `logits` and/or `embeddings`, and optionally `names`.

    `kd-jax embed` writes such files; those of other programs may say `embedding`.

    Args:
        path: the file.
        key: option that names the file, for errors.

    Raises:
        UsageError: if the file cannot be read, its arrays do not fit together, or an output is not
            finite.
    """
    remedy = "it must be an .npz file with the arrays logits or embeddings, and names"
    arrays, present = read_npz(path, _NAMES, f"{key} = {path!r}", remedy)
    logits, names = arrays.get("logits"), arrays.get("names")
    embedding = arrays.get("embeddings", arrays.get("embedding"))
    outputs = {"logits": logits, "embedding": embedding}
    tables = {name: table for name, table in outputs.items() if table is not None}
    if not tables:
        known = ", ".join(map(repr, present)) or "nothing"
        raise UsageError(f"{key} = {path!r} has {known}, but neither logits nor embeddings.")
    number, *_ = (*next(iter(tables.values())).shape, 0)  # 0 for an array without axes
    for name, table in tables.items():
        if table.ndim != 2 or table.dtype.kind not in "f" or len(table) != number:
            raise UsageError(
                f"{key} = {path!r}: logits and embeddings must be floating-point numbers with one"
                f" row per image, not {table.dtype} {list(table.shape)}."
            )
        if not _is_finite(table):
            raise UsageError(f"{key} = {path!r} has {name} that are NaN or infinite: record again.")
    if names is not None and (names.ndim != 1 or names.dtype.kind not in "USiu"):
        raise UsageError(
            f"{key} = {path!r} has names that are {names.dtype} {list(names.shape)}: give texts or"
            " positions [M]."
        )
    if names is not None and names.shape != (number,):
        raise UsageError(
            f"{key} = {path!r} has {number} rows, but names of the shape"
            f" {list(names.shape)}: give one name per row."
        )
    return RecordedOutputs(str(path), logits, embedding, names)


def _is_finite(table: np.ndarray) -> bool:
    """Returns whether all numbers are finite in float32."""
    blocks = (table[i : i + _BLOCK] for i in range(0, len(table), _BLOCK))
    with np.errstate(over="ignore"):
        return all(np.isfinite(np.asarray(block, np.float32)).all() for block in blocks)


def _word(name: object) -> str:
    """Returns a name or a position as text."""
    return name.decode() if isinstance(name, bytes) else str(name)
