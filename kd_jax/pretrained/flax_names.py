"""Variables in a flat file: the name of each array is the path of a variable in Flax.

The names are those of `flax.traverse_util.flatten_dict(variables, sep="/")`, such as
`params/classifier/kernel`. Such a file is of any network, the user's own included.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from kd_jax.core.errors import UsageError
from kd_jax.core.files import PathLike
from kd_jax.pretrained.pytorch.fitting import misfit_words

PyTree = Any
SEPARATOR = "/"


def has_flax_names(tensors: Mapping[str, np.ndarray]) -> bool:
    """Returns True if the names are paths in Flax; those of PyTorch have no slash."""
    return any(SEPARATOR in name for name in tensors)


def without_module(tensors: Mapping[str, np.ndarray], module: str) -> dict[str, np.ndarray]:
    """Returns the arrays except those of a module at the top, in all collections."""
    return {
        name: array for name, array in tensors.items() if name.split(SEPARATOR)[1:2] != [module]
    }


def to_variables(
    tensors: Mapping[str, np.ndarray], shapes: PyTree, network: str, path: PathLike
) -> PyTree:
    """Returns the variables of a network from arrays by name.

    Args:
        tensors: the arrays.
        shapes: shapes and dtypes of the variables, as from `jax.eval_shape`. A floating-point array
            is converted to the dtype of its variable.
        network: name of the network, for errors.
        path: path of the file, for errors.

    Raises:
        UsageError: if a name or shape differs, an array is of another kind of numbers, or a number
            is NaN.
    """
    needed = flatten_dict(shapes, sep=SEPARATOR)
    missing = [name for name in needed if name not in tensors]
    superfluous = [name for name in tensors if name not in needed]
    shapes_differ = [
        (name, tensors[name].shape, leaf.shape)
        for name, leaf in needed.items()
        if name in tensors and tensors[name].shape != leaf.shape
    ]
    if words := misfit_words(missing, superfluous, shapes_differ):
        remedy = "choose the network and the options of the file"
        if missing:
            remedy = (
                "name each array by the path of its variable in Flax, such as"
                " params/classifier/kernel"
            )
        raise UsageError(f"{path} does not fit {network}: {words}; {remedy}.")
    return unflatten_dict(
        {name: _array(tensors[name], leaf, name, path) for name, leaf in needed.items()},
        sep=SEPARATOR,
    )


def _array(array: np.ndarray, leaf: jax.ShapeDtypeStruct, name: str, path: PathLike) -> np.ndarray:
    """Returns an array in the dtype of its variable."""
    both_float = all(jnp.issubdtype(x.dtype, jnp.floating) for x in (array, leaf))
    if not both_float and array.dtype != leaf.dtype:
        raise UsageError(
            f"{path} holds {name} as {array.dtype}, but the variable is {leaf.dtype}: convert it."
        )
    if both_float and not np.isfinite(array.astype(np.float32)).all():
        raise UsageError(f"{path} holds {name} with NaN or infinity: take another checkpoint.")
    return np.asarray(array, leaf.dtype)
