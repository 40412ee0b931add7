"""Tables: the names and layouts of a network's variables in the PyTorch original."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from kd_jax.data.preprocessing import Normalization

PyTree = Any


class Layout(NamedTuple):
    """The order of the axes of an array in PyTorch and in Flax.

    Attributes:
        to_flax: turns an array of PyTorch into one of Flax.
        to_pytorch: the inverse.
    """

    to_flax: Callable[[np.ndarray], np.ndarray]
    to_pytorch: Callable[[np.ndarray], np.ndarray]


SAME = Layout(lambda x: x, lambda x: x)
CONVOLUTION = Layout(lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1))
"""[out, in, h, w] in PyTorch, [h, w, in, out] in Flax; with groups, `in` is that of one group."""
LINEAR = Layout(lambda x: x.T, lambda x: x.T)
"""[out, in] in PyTorch, [in, out] in Flax."""
CONVOLUTION_1X1 = Layout(lambda x: x[:, :, 0, 0].T, lambda x: x.T[:, :, None, None])
"""[out, in, 1, 1] in PyTorch, [in, out] in Flax: a linear map that is written as a convolution."""


def flattened(height: int, width: int) -> Layout:
    """Returns the layout of a linear map of flattened feature maps.

    PyTorch flattens [C, H, W], Flax [H, W, C].
    """

    def to_flax(x: np.ndarray) -> np.ndarray:
        return x.reshape(len(x), -1, height, width).transpose(2, 3, 1, 0).reshape(-1, len(x))

    def to_pytorch(x: np.ndarray) -> np.ndarray:
        maps = x.reshape(height, width, -1, x.shape[-1])
        return maps.transpose(3, 2, 0, 1).reshape(x.shape[-1], -1)

    return Layout(to_flax, to_pytorch)


_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "slope": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
"""The name in PyTorch of each kind of array in Flax."""

IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""The normalization of torchvision's networks."""

COUNTER = "num_batches_tracked"
"""An entry of every batch norm in PyTorch that has no meaning for Flax's."""


class Entry(NamedTuple):
    """One variable.

    Attributes:
        path: keys of the variable in Flax.
        layout: its layout.
        shape: its shape in PyTorch.
    """

    path: tuple[str, ...]
    layout: Layout
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """The names that the variables of a network have in PyTorch.

    Attributes:
        name: name of the table, for messages and for `stage.json`.
        originals: the code whose files have these names.
        modules: name in PyTorch of the modules in Flax. A key is a pattern of the path in Flax; a
            value takes the numbers in the path and returns the name.
        first: path in Flax of the first convolution.
        size: height and width of the images that the originals see.
        classifier: name in PyTorch of the classifier; None if the files have none that fits. It is
            then not read.
        classes_axis: axis of the classes in the classifier's weight.
        layouts: layouts of those kernels, by path in Flax, that are not the usual one.
        unused: patterns of entries that the files may have and the network does not use. A value is
            the shape that the entry must have; None is any shape.
        zeros: patterns of entries that the network does not have, and that must be 0.
        normalization: normalization of the images that the originals see, in the order red, green,
            blue; None if the originals differ in it.
        bgr: the originals see BGR images.
        note: what the user must know about these files, one sentence; empty if there is nothing.
    """

    name: str
    originals: str
    modules: Mapping[str, Callable[..., str]]
    first: str
    size: tuple[int, int]
    classifier: str | None
    classes_axis: int = 0
    layouts: Mapping[str, Layout] = dataclasses.field(default_factory=dict)
    unused: Mapping[str, tuple[int, ...] | None] = dataclasses.field(default_factory=dict)
    zeros: tuple[str, ...] = ()
    normalization: Normalization | None = None
    bgr: bool = False
    note: str = ""

    def without_head(self) -> "Table":
        """Returns the table of the same files that does not read the classifier."""
        if self.classifier is None:
            return self
        unused = {**self.unused, rf"{re.escape(self.classifier)}\..*": None}
        return dataclasses.replace(self, classifier=None, unused=unused)

    def module(self, path: str) -> str | None:
        """Returns the name in PyTorch of a module in Flax; None if the table has none."""
        if path == "classifier":
            return self.classifier
        for pattern, name in self.modules.items():
            if match := re.fullmatch(pattern, path):
                return name(*map(int, match.groups()))
        return None

    def entries(self, variables: PyTree) -> tuple[dict[str, Entry], list[str]]:
        """Returns the entries that a file must have.

        Args:
            variables: variables of the network, or their shapes.

        Returns:
            The entries by name in PyTorch, and the paths in Flax that have no name in PyTorch. The
            classifier is in neither if `classifier` is None.
        """
        found, unknown = {}, []
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
            kind, *modules, last = (entry.key for entry in path)
            place = "/".join(modules)
            if place == "classifier" and self.classifier is None:
                continue
            name = self.module(place)
            if name is None:
                unknown.append(place)
                continue
            layout = self._layout(place, last, leaf.ndim)
            shape = layout.to_pytorch(np.broadcast_to(np.float32(0), leaf.shape)).shape
            found[f"{name}.{_LEAVES[last]}"] = Entry((kind, *modules, last), layout, shape)
        return found, unknown

    def _layout(self, place: str, leaf: str, ndim: int) -> Layout:
        if leaf != "kernel":
            return SAME
        return self.layouts.get(place) or {4: CONVOLUTION, 2: LINEAR}.get(ndim, SAME)

    def num_classes(self, tensors: Mapping[str, np.ndarray]) -> int | None:
        """Returns the number of classes of the classifier in a file; None if it has none."""
        weight = tensors.get(f"{self.classifier}.weight")
        return None if weight is None or weight.ndim < 2 else weight.shape[self.classes_axis]

    def channels(self, tensors: Mapping[str, np.ndarray]) -> int | None:
        """Returns the number of channels of the images; None if the first convolution is absent."""
        weight = tensors.get(f"{self.module(self.first)}.weight")
        return weight.shape[1] if weight is not None and weight.ndim == 4 else None
