"""First weights of a network from a file, without a folder of a finished stage."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Sharding

from kd_jax.core.errors import UsageError
from kd_jax.core.hashing import content_hash
from kd_jax.data.preprocessing import Normalization
from kd_jax.pretrained import flax_names
from kd_jax.pretrained.info import NetworkInfo
from kd_jax.pretrained.pytorch import match_file
from kd_jax.pretrained.pytorch.files import read_file
from kd_jax.pretrained.pytorch.tables import FAMILIES
from kd_jax.pretrained.weights import HEAD, with_head

PyTree = Any


class _Content(NamedTuple):
    """The content of a file, in the form of a network's variables.

    Attributes:
        variables: the variables, without a classifier that is not read.
        num_classes: number of classes of the classifier; None if it is not known or not read.
        channels: number of channels of the images.
        normalization: normalization of the originals; None if it is not known.
    """

    variables: PyTree
    num_classes: int | None
    channels: int
    normalization: Normalization | None = None


@dataclasses.dataclass(frozen=True)
class FileWeights:
    """The weights of a network in a file: of a PyTorch original, or under the names of Flax.

    It is used like `Weights`, the network of a finished stage.

    Attributes:
        path: the file.
        info: description of the network.
        channels: number of channels of the images.
        head: read the classifier. If false, the file may have another one, or none.
        bgr: swap the input channels of the weights, which see BGR images. None swaps them if the
            originals see BGR images.
    """

    path: epath.Path
    info: NetworkInfo
    channels: int
    head: bool
    bgr: bool | None

    def completed(self) -> "FileWeights":
        """Reads the file, and returns these weights with the description that it determines.

        `info.num_classes` is then the number of classes of the classifier in the file. Where
        `info.mean` is empty, the normalization is that of the originals, if it is known.

        Raises:
            UsageError: if the file cannot be read, or does not fit the network or the images.
        """
        content, info = self._content(), self.info
        if content.channels != self.channels:
            raise UsageError(
                f"{self.path} sees images of {content.channels} channels, but these images have"
                f" {self.channels}: choose weights that fit."
            )
        if not info.mean and content.normalization is not None:
            known = content.normalization
            info = dataclasses.replace(info, mean=known.mean, std=known.std)
        if content.num_classes is not None:
            info = dataclasses.replace(info, num_classes=content.num_classes)
        return dataclasses.replace(self, info=info)

    def read(self, template: PyTree, sharding: Sharding) -> PyTree:
        """Reads the variables in the dtypes of `template`."""
        arrays = jax.tree.map(
            lambda leaf, array: np.asarray(array, leaf.dtype), template, self._content().variables
        )
        return jax.device_put(arrays, sharding)

    def read_without_head(self, fresh: PyTree, sharding: Sharding) -> PyTree:
        """Reads the variables, except the classifier, which is taken from `fresh`.

        Raises:
            UsageError: if the network has no classifier of the usual name.
        """
        stored = jax.device_put(self._content().variables, sharding)
        return with_head(stored, fresh, self.info.name, self.path)

    def provenance(self, variables: PyTree, workdir: epath.Path) -> dict[str, Any]:
        """Returns the JSON by which a resumed run recognizes these weights."""
        del workdir
        return {"file": self.path.name, "hash": content_hash(variables)}

    def _content(self) -> _Content:
        file = read_file(self.path)
        if flax_names.has_flax_names(file.tensors) or type(self.info.module()) not in FAMILIES:
            return self._flax(file.tensors)
        match = match_file(
            file,
            self.path,
            self.info.name,
            options=self.info.options,
            num_classes=None if self.head else self.info.num_classes,
            size=self.info.size,
            head=self.head,
        )
        if self.head and match.num_classes is None:
            raise UsageError(
                f"{self.path} has no classifier that fits {self.info.name}: set init_head = False"
                " to start from a random one."
            )
        variables = match.variables(self.bgr, self.path)
        return _Content(variables, match.num_classes, match.channels, match.normalization)

    def _flax(self, tensors: dict[str, np.ndarray]) -> _Content:
        """Returns the content of a file whose names are paths in Flax."""
        if self.bgr is not None:
            raise UsageError(
                f"{self.path} is no file of a PyTorch original, which bgr is for: leave bgr out."
            )
        classifier = tensors.get(f"params/{HEAD}/kernel") if self.head else None
        classes = None if classifier is None else classifier.shape[-1]
        info = dataclasses.replace(self.info, num_classes=classes or self.info.num_classes)
        view = jax.ShapeDtypeStruct((1, *info.size, self.channels), jnp.float32)
        init = functools.partial(info.module().init, train=False)
        shapes = jax.eval_shape(init, jax.random.key(0), view)
        if not self.head:
            tensors = flax_names.without_module(tensors, HEAD)
            shapes = {
                kind: {name: tree for name, tree in modules.items() if name != HEAD}
                for kind, modules in shapes.items()
            }
        variables = flax_names.to_variables(tensors, shapes, info.name, self.path)
        return _Content(variables, classes, self.channels)
