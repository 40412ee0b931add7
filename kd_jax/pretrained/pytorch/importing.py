"""Variables of a network from a file of PyTorch weights."""

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax import models
from kd_jax.core.errors import UsageError
from kd_jax.core.files import PathLike
from kd_jax.data.preprocessing import Normalization
from kd_jax.pretrained.pytorch.files import WeightsFile, read_file
from kd_jax.pretrained.pytorch.fitting import Fit
from kd_jax.pretrained.pytorch.table import PyTree, Table
from kd_jax.pretrained.pytorch.tables import FAMILIES, foreign


class Match(NamedTuple):
    """A file of weights, and the table of a network that it fits.

    Attributes:
        file: the file.
        fit: the table, and the entries of the file by its names.
        num_classes: number of classes of the classifier in the file; None if it has none that fits.
        channels: number of channels of the images.
    """

    file: WeightsFile
    fit: Fit
    num_classes: int | None
    channels: int

    @property
    def normalization(self) -> Normalization | None:
        """Returns the normalization of the originals; None if it is unknown."""
        known = self.fit.table.normalization
        return known if known is not None and len(known.mean) == self.channels else None

    def is_bgr(self, bgr: bool | None, path: PathLike) -> bool:
        """Returns True for weights that see BGR images.

        Args:
            bgr: the user's choice; None follows the originals.
            path: path of the file, for the error.

        Raises:
            UsageError: if the user's choice needs three channels and the images have others.
        """
        if bgr and self.channels != 3:
            raise UsageError(f"bgr needs images of 3 channels, but {path} has {self.channels}.")
        return self.fit.table.bgr and self.channels == 3 if bgr is None else bgr

    def variables(self, bgr: bool | None, path: PathLike) -> PyTree:
        """Returns parameters and batch statistics, float32, without a classifier that does not fit.

        See `is_bgr` for the arguments.
        """
        variables = self.fit.variables(path, self.file.tensors)
        if self.is_bgr(bgr, path):
            _swap_channels(variables["params"], self.fit.table.first)
        return variables


class Imported(NamedTuple):
    """A network with the weights of a file.

    Attributes:
        file: the file.
        table: the table that fits.
        variables: parameters and batch statistics, float32.
        num_classes: number of logits.
        channels: number of channels of the images.
        normalization: normalization of the originals; None if it is unknown.
        bgr: the input channels were swapped.
    """

    file: WeightsFile
    table: Table
    variables: PyTree
    num_classes: int
    channels: int
    normalization: Normalization | None
    bgr: bool


def import_weights(
    path: PathLike,
    network: str,
    *,
    options: Mapping[str, Any] | None = None,
    num_classes: int | None = None,
    size: tuple[int, int] | None = None,
    bgr: bool | None = None,
) -> PyTree:
    """Reads the weights of a PyTorch network.

    The names and shapes in the file must be those of one of the tables of the network in
    `kd_jax.pretrained.pytorch.tables`. PyTorch is not needed, and no code in the file is executed.

    Args:
        path: a file of PyTorch (`.pth`, `.pt`, `.th`, `.bin`, `.tar`), `.safetensors` or `.npz`.
        network: name of the network, one of `kd_jax.models.names()`.
        options: options of the network, as `kd_jax.models.create` takes them.
        num_classes: number of logits; None is that of the classifier in the file.
        size: height and width of the images; None is that of the original. Only the embeddings of
            SphereFace depend on it.
        bgr: swap the input channels of the first convolution, so that weights that were trained
            with BGR images see RGB images. None swaps them if the originals see BGR images.

    Returns:
        `{"params": ..., "batch_stats": ...}` in float32, as the network's `apply` takes them.

    Raises:
        UsageError: if the file cannot be read, or does not fit the network.
    """
    return read_network(
        path, network, options=options, num_classes=num_classes, size=size, bgr=bgr
    ).variables


def read_network(
    path: PathLike,
    network: str,
    *,
    options: Mapping[str, Any] | None = None,
    num_classes: int | None = None,
    size: tuple[int, int] | None = None,
    bgr: bool | None = None,
) -> Imported:
    """Does the same as `import_weights`, and also returns the file, the table and the sizes."""
    match = match_file(
        read_file(path), path, network, options=options, num_classes=num_classes, size=size
    )
    table, classes = match.fit.table, match.num_classes or num_classes
    if classes is None:
        raise UsageError(
            f"{path} has no classifier for {network}: give num_classes, the number of classes of a"
            " new one."
        )
    variables = match.variables(bgr, path)
    if table.classifier is None:
        create = functools.partial(models.create, network, **(options or {}))
        head = _Sketch(create, match.file.tensors).fresh_head(table, classes)
        variables["params"]["classifier"] = head
    return Imported(
        file=match.file,
        table=table,
        variables=jax.tree.map(jnp.asarray, variables),
        num_classes=classes,
        channels=match.channels,
        normalization=match.normalization,
        bgr=match.is_bgr(bgr, path),
    )


def match_file(
    file: WeightsFile,
    path: PathLike,
    network: str,
    *,
    options: Mapping[str, Any] | None = None,
    num_classes: int | None = None,
    size: tuple[int, int] | None = None,
    head: bool = True,
) -> Match:
    """Finds the table of a network that a file fits.

    Args:
        file: the content of the file.
        path: path of the file, for errors.
        network: name of the network.
        options: options of the network.
        num_classes: number of logits; None is that of the classifier in the file.
        size: height and width of the images; None is that of the original.
        head: read the classifier. If false, the file may have another one, or none.

    Raises:
        UsageError: if the file fits no table of the network.
    """
    options = dict(options or {})
    create = functools.partial(models.create, network, **options)
    family = FAMILIES.get(type(create(num_classes=1)))
    if family is None:
        raise UsageError(
            f"network = {network!r} is not in any table of PyTorch networks: choose a network of"
            " kd_jax, or set init_from of a config to a file with the names of Flax."
        )
    fits, sketch = [], _Sketch(create, file.tensors)
    for table in family(create(num_classes=1), size):
        table = table if head else table.without_head()
        entries, unknown = table.entries(sketch.shapes(table, num_classes))
        if unknown:
            raise UsageError(
                f"{network} has no PyTorch original with these options (it has {unknown[0]} in"
                " addition): leave out the options that add parts."
            )
        fits.append(Fit.of(table, entries, file.tensors))
    complete = [fit for fit in fits if fit.distance == 0]
    if not complete:
        raise _misfit(path, network, options, min(fits, key=lambda fit: fit.distance), file)
    fit = complete[0]  # further ones differ only in a classifier that is not read
    classes, channels = fit.table.num_classes(file.tensors), fit.table.channels(file.tensors)
    return Match(file, fit, classes, channels or 0)


def _swap_channels(params: PyTree, first: str) -> None:
    """Reverses the input channels of the first convolution."""
    *keys, last = first.split("/")
    for key in keys:
        params = params[key]
    params[last]["kernel"] = params[last]["kernel"][:, :, ::-1]


@dataclasses.dataclass(frozen=True, eq=False)
class _Sketch:
    """The variables of a network as far as they are known without its weights.

    Attributes:
        create: makes the network from the number of classes.
        tensors: entries of the file.
    """

    create: Any
    tensors: Mapping[str, np.ndarray]

    def _image(self, table: Table) -> jax.ShapeDtypeStruct:
        channels = table.channels(self.tensors) or 3
        return jax.ShapeDtypeStruct((1, *table.size, channels), jnp.float32)

    def shapes(self, table: Table, num_classes: int | None) -> PyTree:
        """Returns the shapes of all variables; the classes are the file's if none are given."""
        classes = table.num_classes(self.tensors) if num_classes is None else num_classes
        module = self.create(num_classes=1 if classes is None else classes)
        init = functools.partial(module.init, train=False)
        return jax.eval_shape(init, jax.random.key(0), self._image(table))

    def fresh_head(self, table: Table, num_classes: int) -> PyTree:
        """Returns random values of the classifier, always the same."""
        module, shape = self.create(num_classes=num_classes), self._image(table)

        def head() -> PyTree:
            image = jnp.zeros(shape.shape, shape.dtype)
            return module.init(jax.random.key(0), image, train=False)["params"]["classifier"]

        return jax.jit(head)()  # the compiler removes the rest of the network


def _misfit(
    path: PathLike, network: str, options: Mapping[str, Any], fit: Fit, file: WeightsFile
) -> UsageError:
    """Returns the error for a file that fits no table; `fit` is the nearest one."""
    if (other := foreign(file.tensors)) is not None:
        return UsageError(
            f"{path} is {other.name}, which kd_jax does not have: in comparison with {network} it"
            f" has {other.difference}."
        )
    given = ", ".join(f"{name} = {value!r}" for name, value in options.items())
    return UsageError(
        f"{path} does not fit {network}{f' with {given}' if given else ''}; by the nearest table,"
        f" {fit.table.name} ({fit.table.originals}), {fit.words()}: {_remedy(fit, network)}."
    )


_LINEAR = {"classifier.weight", "classifier.bias"}
"""The classifier of kuangliu's VGG."""


def _remedy(fit: Fit, network: str) -> str:
    """Returns the advice for a file that does not fit."""

    def shortcuts(names: Sequence[str]) -> bool:
        return bool(names) and all(re.search(r"\.(shortcut|downsample)\.", name) for name in names)

    if shortcuts(fit.missing) and not fit.superfluous and not fit.shapes:
        return "set the option shortcut = 'A', if the original has shortcuts without parameters"
    if shortcuts(fit.superfluous) and not fit.missing and not fit.shapes:
        return "set the option shortcut = 'B'"
    if any(name == "conv1.weight" and has[2:] == (7, 7) for name, has, _ in fit.shapes):
        return "set the option stem = 'imagenet'"
    if any(name == "classifier.0.weight" and has == (512, 512) for name, has, _ in fit.shapes):
        return "set the options pools = 5 and hidden = (512, 512)"
    if fit.table.classifier is None and set(fit.superfluous) == _LINEAR:
        return "set the option pools = 5"
    lacks_head = {name.rpartition(".")[0] for name in fit.missing} == {fit.table.classifier}
    if lacks_head and not fit.superfluous and not fit.shapes:
        return "take a file with a classifier, or set init_head = False in a config"
    heads = {name.rpartition(".")[0] for name, *_ in fit.shapes}
    if heads == {fit.table.classifier} and not fit.missing and not fit.superfluous:
        return f"leave out num_classes, which {fit.table.classifier}.weight determines"
    return f"choose the network and the options of the file instead of {network}"
