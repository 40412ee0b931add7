"""Faces, and a run on them; the tests must not change their folders."""

import pytest
import small_config
import small_faces

import kd_jax


@pytest.fixture(autouse=True, scope="session")
def programs(tmp_path_factory):
    """Compiles equal programs of all runs once."""
    with small_config.compiled_once(tmp_path_factory.getbasetemp() / "programs"):
        yield


@pytest.fixture(scope="session")
def faces(tmp_path_factory):
    """Folder of faces of 14x12 pixels."""
    folder = tmp_path_factory.mktemp("faces")
    small_faces.write(folder)
    return folder


@pytest.fixture(scope="session")
def trained(faces, tmp_path_factory, programs):
    """Folder and results of KDim on the faces."""
    workdir = tmp_path_factory.mktemp("run")
    return workdir, kd_jax.run(small_faces.get_config(faces), workdir)


@pytest.fixture
def one_sentence(capsys):
    """Runs a command that fails; returns its one line on stderr."""

    def run(main, *arguments):
        assert main([str(argument) for argument in arguments]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        return error

    return run
