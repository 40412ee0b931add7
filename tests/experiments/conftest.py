"""The scripts are no package: they import their siblings, as Python does for a script it runs."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def script():
    """Imports a script of `experiments/` by its path there."""

    def load(path):
        path = ROOT / "experiments" / path
        # not its bare name, which a folder of the tests might have too
        spec = importlib.util.spec_from_file_location(f"experiment_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(str(path.parent))
            spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def one_device(monkeypatch):
    """Runs use one of the eight fake devices, which share two cores."""
    from kd_jax.devices import data_mesh

    monkeypatch.setattr("kd_jax.pipeline.data_mesh", lambda _: data_mesh(1))
