"""Two runs that were never stopped; the tests must not change their folders."""

import pytest
import small_config

import kd_jax


@pytest.fixture(autouse=True, scope="session")
def programs(tmp_path_factory):
    """Compiles equal programs of all runs once."""
    with small_config.compiled_once(tmp_path_factory.getbasetemp() / "programs"):
        yield


@pytest.fixture(scope="session")
def finished(tmp_path_factory, programs):
    """Folder and results of a teacher and its student."""
    workdir = tmp_path_factory.mktemp("run")
    return workdir, kd_jax.run(small_config.get_config(), workdir)


@pytest.fixture(scope="session")
def online(tmp_path_factory, programs):
    """Folder and results of EKD: two networks that are trained together."""
    workdir = tmp_path_factory.mktemp("online")
    return workdir, kd_jax.run(small_config.online_config().to_dict(), workdir)
