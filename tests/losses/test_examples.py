"""The examples in the docstrings of the losses give what they print."""

import doctest
import importlib
import inspect
import pkgutil

import jax
import numpy as np
import pytest
from compiling import FAST

from kd_jax import losses

MODULES = [module.name for module in pkgutil.iter_modules(losses.__path__)]


def at_once(function):
    """Compiles a function as a whole, in a fraction of the time of its single operations."""

    def call(*args, **options):
        leaves, structure = jax.tree.flatten((args, options))
        arrays = {i: x for i, x in enumerate(leaves) if isinstance(x, np.ndarray | jax.Array)}

        def run(arrays):
            every = [arrays.get(i, x) for i, x in enumerate(leaves)]
            args, options = jax.tree.unflatten(structure, every)
            return function(*args, **options)

        return jax.jit(run, compiler_options=FAST)(arrays)

    return call


@pytest.fixture(autouse=True)
def functions_compile_at_once(monkeypatch):
    for name in losses.__all__:
        if inspect.isfunction(function := getattr(losses, name)):
            monkeypatch.setattr(losses, name, at_once(function))


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    module = importlib.import_module(f"kd_jax.losses.{name}")
    failed, attempted = doctest.testmod(module)
    assert failed == 0
    assert attempted > 0 or name.startswith("_")
