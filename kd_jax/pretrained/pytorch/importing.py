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
from kd_jax.pretrained.pytorch.files import WeightsFile, read_file
from kd_jax.pretrained.pytorch.fitting import Fit
from kd_jax.pretrained.pytorch.table import PyTree, Table
from kd_jax.pretrained.pytorch.tables import FAMILIES, foreign


class Imported(NamedTuple):
    """A network with the weights of a file.

    Attributes:
        file: the file.
        table: the table that fits.
        variables: parameters and batch statistics, float32.
        num_classes: number of logits.
        channels: number of channels of the images.
    """

    file: WeightsFile
    table: Table
    variables: PyTree
    num_classes: int
    channels: int


def import_weights(
    path: PathLike,
    network: str,
    *,
    options: Mapping[str, Any] | None = None,
    num_classes: int | None = None,
    size: tuple[int, int] | None = None,
    bgr: bool = False,
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
            with BGR images see RGB images.

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
    bgr: bool = False,
) -> Imported:
    """Does the same as `import_weights`, and also returns the file, the table and the sizes."""
    file, options = read_file(path), dict(options or {})
    create = functools.partial(models.create, network, **options)
    family = FAMILIES.get(type(create(num_classes=1)))
    if family is None:
        raise UsageError(
            f"network = {network!r} is not in any table of PyTorch networks: choose a network of"
            " kd_jax, or convert the weights in Python."
        )
    fits, sketch = [], _Sketch(create, file.tensors)
    for table in family(create(num_classes=1), size):
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
    (fit,) = complete  # the tables of a network exclude each other
    table = fit.table
    classes = table.num_classes(file.tensors)
    if classes is None:
        classes = num_classes
    if classes is None:
        raise UsageError(
            f"{path} has no classifier for {network}: give num_classes, the number of classes of a"
            " new one."
        )
    variables = fit.variables(path, file.tensors)
    if table.classifier is None:
        variables["params"]["classifier"] = sketch.fresh_head(table, classes)
    channels = table.channels(file.tensors) or 0
    if bgr:
        if channels != 3:
            raise UsageError(f"bgr needs images of 3 channels, but {path} has {channels}.")
        _swap_channels(variables["params"], table.first)
    variables = jax.tree.map(jnp.asarray, variables)
    return Imported(file, table, variables, classes, channels)


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
    heads = {name.rpartition(".")[0] for name, *_ in fit.shapes}
    if heads == {fit.table.classifier} and not fit.missing and not fit.superfluous:
        return f"leave out num_classes, which {fit.table.classifier}.weight determines"
    return f"choose the network and the options of the file instead of {network}"
