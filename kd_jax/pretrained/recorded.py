"""Recorded outputs of a teacher of any kind: files, and their assignment to images."""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from kd_jax.core.errors import UsageError
from kd_jax.data.class_positions import positions_in_class
from kd_jax.data.npz_files import read_npz
from kd_jax.models.recorded import COLLECTION

PyTree = Any

_NAMES = ("logits", "embeddings", "embedding", "names")  # of arrays
_BLOCK = 2**14  # rows that are checked at a time
_COMPARED = 10_000  # images whose labels are compared with their outputs, at most
_FEWEST_IMAGES, _FEWEST_PAIRS = 200, 100  # for a comparison with chance
_ABOVE_CHANCE = 4.0  # standard errors


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

    def check_labels(self, rows: np.ndarray, labels: np.ndarray, key: str) -> None:
        """Refuses outputs that do not agree with the labels better than chance.

        Such outputs belong to other images, because the file has another order, and would teach
        noise. Logits are compared by their accuracy: chance is that of the same predictions in a
        random order. Embeddings alone are compared by the cosine similarity of pairs of images, of
        which half have one label. Few images, or labels without such pairs, are not checked. An
        order that keeps the images of each label together is not found: only names guard it.

        Args:
            rows: rows of the images, from `select`.
            labels: labels of these images, int `[N]`.
            key: option that names the file, for errors.

        Raises:
            UsageError: if the agreement is not above chance by four standard errors.
        """
        rng = np.random.default_rng(0)
        if self.logits is not None:
            chosen = rng.permutation(len(rows))[:_COMPARED]
            words = _accuracy_at_chance(self.logits[rows[chosen]].argmax(1), labels[chosen])
        else:
            assert self.embedding is not None  # the file has one of the two
            pairs = _pairs_of_one_label(labels, rng)
            table = np.asarray(self.embedding[rows[pairs]], np.float32)
            words = _similarity_at_chance(table, labels[pairs[0]], rng)
        if words is not None:
            raise UsageError(
                f"{key} = {self.path!r} does not belong to the training images: {words}; record"
                " the outputs again, with the names that the source uses and in its order of"
                " classes."
            )

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


def _accuracy_at_chance(predictions: np.ndarray, labels: np.ndarray) -> str | None:
    """Returns a sentence if predictions are right no more often than in a random order."""
    number = len(labels)
    if number < _FEWEST_IMAGES or len(np.unique(labels)) < 2:
        return None
    classes = 1 + max(predictions.max(), labels.max())
    frequencies = [np.bincount(some, minlength=classes) / number for some in (predictions, labels)]
    chance = float(np.dot(*frequencies))
    accuracy = float(np.mean(predictions == labels))
    if accuracy > chance + _ABOVE_CHANCE * math.sqrt(chance * (1 - chance) / number):
        return None
    return (
        f"the accuracy of its logits on {number} training labels is {accuracy:.2%}, and chance is"
        f" {chance:.2%}"
    )


def _pairs_of_one_label(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns pairs of images of one label, int64 `[2, P]`; no image is in two pairs."""
    order = np.argsort(labels, kind="stable")
    even = positions_in_class(labels)[order][:-1] % 2 == 0
    starts = np.flatnonzero(even & (labels[order][1:] == labels[order][:-1]))
    starts = rng.permutation(starts)[: _COMPARED // 2]
    return np.stack([order[starts], order[starts + 1]])


def _similarity_at_chance(
    pairs: np.ndarray, labels: np.ndarray, rng: np.random.Generator
) -> str | None:
    """Returns a sentence if images of one label are no more similar than those of two.

    The statistic is the area under the ROC curve of cosine similarities, with the standard error
    of Mann and Whitney (1947).

    Args:
        pairs: embeddings of pairs of images of one label, `[2, P, D]`.
        labels: these labels, `[P]`.
        rng: chooses pairs of two labels.
    """
    partners = rng.permutation(len(labels))
    differ = labels != labels[partners]
    if min(len(labels), differ.sum()) < _FEWEST_PAIRS:
        return None
    centered = pairs - pairs.mean((0, 1), dtype=np.float64).astype(np.float32)
    centered /= np.maximum(np.linalg.norm(centered, axis=-1, keepdims=True), 1e-12)
    first, second = centered
    same = np.sum(first * second, axis=1)
    other = np.sort(np.sum(first * second[partners], axis=1)[differ])
    smaller = np.searchsorted(other, same, "left") + np.searchsorted(other, same, "right")
    area = float(np.mean(smaller)) / (2 * len(other))
    error = math.sqrt((len(same) + len(other) + 1) / (12 * len(same) * len(other)))
    if area > 0.5 + _ABOVE_CHANCE * error:
        return None
    return (
        f"in {len(same)} pairs of images with one label, the embeddings are not more similar than"
        f" in pairs with two labels (area under the ROC curve {area:.3f}, and chance is 0.5)"
    )


def _is_finite(table: np.ndarray) -> bool:
    """Returns whether all numbers are finite in float32."""
    blocks = (table[i : i + _BLOCK] for i in range(0, len(table), _BLOCK))
    with np.errstate(over="ignore"):
        return all(np.isfinite(np.asarray(block, np.float32)).all() for block in blocks)


def _word(name: object) -> str:
    """Returns a name or a position as text."""
    return name.decode() if isinstance(name, bytes) else str(name)
