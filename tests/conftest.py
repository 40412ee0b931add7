"""Runs every test with eight fake devices, strict dtype promotion and no rank promotion."""

import gc
import os

# Also for the commands that tests start. `losses/table.py` compiles the losses with optimization.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
os.environ.setdefault("FLAX_PROFILE", "0")  # a name of each module in the program takes time
# Without fusion emitters, XLA compiles a train step on the CPU in less than half of the time.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1",
)

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Leaves the long profiles out, except if `-m` names them."""
    if "long" not in (config.option.markexpr or ""):
        out = [item for item in items if item.get_closest_marker("long")]
        items[:] = [item for item in items if item not in out]
        config.hook.pytest_deselected(items=out)


def pytest_collection_finish(session):
    """Makes the garbage collector rare: it takes a sixth of the time of tests that trace."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


@pytest.fixture
def x64():
    """Runs the test in double precision."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def cifar100_folder(tmp_path_factory):
    """Folder in which TFDS finds a prepared CIFAR-100 of noise."""
    import small_sets

    return small_sets.prepare(small_sets.Cifar100, tmp_path_factory.mktemp("cifar100"))
