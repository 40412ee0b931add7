"""The examples in the docstrings of the losses give what they print."""

import doctest
import importlib
import pkgutil

import pytest

from kd_jax import losses

MODULES = [module.name for module in pkgutil.iter_modules(losses.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    module = importlib.import_module(f"kd_jax.losses.{name}")
    failed, attempted = doctest.testmod(module)
    assert failed == 0
    assert attempted > 0 or name.startswith("_")
