"""The comparison of a file's entries with a table."""

import dataclasses
import re
from collections.abc import Mapping, Sequence

import ml_dtypes
import numpy as np

from kd_jax.core.errors import UsageError
from kd_jax.pretrained.pytorch.table import COUNTER, Entry, PyTree, Table
from kd_jax.pretrained.pytorch.unpickling import printable

_SHOWN = 3
"""Number of entries of each kind in an error."""


@dataclasses.dataclass(frozen=True, eq=False)
class Fit:
    """The comparison of a table with the entries of a file.

    Attributes:
        table: the table.
        entries: entries that the file must have, by name in PyTorch.
        missing: names that the file does not have.
        superfluous: names that only the file has.
        shapes: names whose shape is another one, each with the file's shape and the needed one.
    """

    table: Table
    entries: Mapping[str, Entry]
    missing: Sequence[str]
    superfluous: Sequence[str]
    shapes: Sequence[tuple[str, tuple[int, ...], tuple[int, ...]]]

    @classmethod
    def of(
        cls, table: Table, entries: dict[str, Entry], tensors: Mapping[str, np.ndarray]
    ) -> "Fit":
        """Compares a table with the entries of a file."""
        wrong = [
            (name, tensors[name].shape, entry.shape)
            for name, entry in entries.items()
            if name in tensors and tensors[name].shape != entry.shape
        ]
        norms = {name.rpartition(".")[0] for name in entries if name.endswith(".running_mean")}
        superfluous = []
        for name in tensors:
            module, _, last = name.rpartition(".")
            if name in entries or (last == COUNTER and module in norms):
                continue
            if any(re.fullmatch(pattern, name) for pattern in table.zeros):
                continue
            for pattern, shape in table.unused.items():
                if re.fullmatch(pattern, name):
                    if shape not in (None, tensors[name].shape):
                        wrong.append((name, tensors[name].shape, shape or ()))
                    break
            else:
                superfluous.append(name)
        missing = sorted(name for name in entries if name not in tensors)
        return cls(table, entries, missing, superfluous, wrong)

    @property
    def distance(self) -> int:
        """Returns the number of entries that do not fit; 0 if the table fits completely."""
        return len(self.missing) + len(self.superfluous) + len(self.shapes)

    def words(self) -> str:
        """Returns the first entries that do not fit, in words."""
        return misfit_words(self.missing, self.superfluous, self.shapes)

    def variables(self, path: object, tensors: Mapping[str, np.ndarray]) -> PyTree:
        """Returns the variables of the network in float32, in nested dictionaries.

        Args:
            path: path of the file, for errors.
            tensors: entries of the file, which fit completely.

        Raises:
            UsageError: if a number is not finite, or an array is not floating-point, or an entry
                that must be 0 is not.
        """
        for name in tensors:
            must_be_0 = any(re.fullmatch(pattern, name) for pattern in self.table.zeros)
            if name not in self.entries and must_be_0 and np.any(tensors[name]):
                raise UsageError(
                    f"{path} has {name}, which is not 0, but the network has no such bias: set its"
                    " option unit_bias = True, or take weights that were trained without it."
                )
        tree: dict[str, PyTree] = {}
        for name, (place, layout, _) in self.entries.items():
            *keys, last = place
            inner = tree
            for key in keys:
                inner = inner.setdefault(key, {})
            inner[last] = np.ascontiguousarray(layout.to_flax(_float32(path, name, tensors[name])))
        return tree


def _float32(path: object, name: str, array: np.ndarray) -> np.ndarray:
    """Returns an array in float32."""
    if not (np.issubdtype(array.dtype, np.floating) or array.dtype == ml_dtypes.bfloat16):
        raise UsageError(
            f"{path} holds {name} as {array.dtype}: take weights that are not quantized."
        )
    with np.errstate(over="ignore"):  # what overflows is infinite, and refused
        array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise UsageError(
            f"{path} holds {name} with numbers that are not finite: take another checkpoint."
        )
    return array


def misfit_words(
    missing: Sequence[str],
    superfluous: Sequence[str],
    shapes: Sequence[tuple[str, tuple[int, ...], tuple[int, ...]]],
) -> str:
    """Returns the first entries of a file that do not fit, in words; see `Fit` for the arguments.

    The text is empty if all entries fit.
    """
    wrong = [f"{name} {list(has)} instead of {list(need)}" for name, has, need in shapes]
    parts = {"lacks": missing, "has in addition": superfluous, "has other shapes": wrong}
    return "; ".join(f"it {what} {_first(names)}" for what, names in parts.items() if names)


def _first(names: Sequence[str]) -> str:
    """Returns the first of some names, and the number of the others."""
    shown = ", ".join(printable(name) for name in names[:_SHOWN])
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown
