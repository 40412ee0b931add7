"""Runs of the scripts use one device, and compile equal programs once."""

import pytest
import small_config
import small_stage

from kd_jax import models
from kd_jax.core.devices import data_mesh


@models.register("narrow")
def narrow(width=1.0, head="linear", **options):
    """Returns a small network that accepts the options of all configs."""
    del width, head
    return small_stage.Tiny(**options)


@pytest.fixture(scope="session")
def programs(tmp_path_factory):
    with small_config.compiled_once(tmp_path_factory.mktemp("programs")):
        yield


@pytest.fixture
def one_device(programs, monkeypatch):
    """Runs use one of the eight fake devices."""
    monkeypatch.setattr("kd_jax.experiment.run.data_mesh", lambda _: data_mesh(1))


@pytest.fixture
def no_training(monkeypatch):
    """Returns a function after whose call a run cannot train any more."""
    return lambda: monkeypatch.setattr("kd_jax.experiment.run.Run.run", None)


@pytest.fixture
def rows():
    """Returns a function for the rows of all Markdown tables of a text, by their first cell."""

    def read(text):
        lines = [line for line in text.splitlines() if line.startswith("|")]
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        return {name: rest for name, *rest in cells}

    return read
