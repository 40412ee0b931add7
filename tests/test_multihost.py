"""Compares two processes of two devices each, as on a pod, with one process."""

import os
import pathlib
import socket
import subprocess
import sys

import pytest
import small_config
import small_faces

from kd_jax.experiment.run import Run

ROOT = pathlib.Path(__file__).parents[1]


def config(faces):
    """Returns HORKD on faces; each process decodes the images of its own devices."""
    values = small_faces.get_config(faces, stream=True)
    values["stages"]["student"]["method"] = (
        small_config.get_config().stages.student.method.to_dict()
    )
    values["num_devices"] = None
    values["checkpoint_minutes"] = 0.001  # also between evaluations
    for stage in values["stages"].values():
        stage["epochs"] = 1.0
    return values


def work(process, port, faces, workdir):
    """Runs one of the processes."""
    import jax

    jax.config.update("jax_num_cpu_devices", 2)
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=process)
    summary = Run(config(faces), workdir).run()
    assert summary["device"]["count"] == 4
    assert summary["device"]["processes"] == 2


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = (
        "import sys, test_multihost as t;"
        "t.work(int(sys.argv[1]), int(sys.argv[2]), *map(t.pathlib.Path, sys.argv[3:]))"
    )
    faces = tmp_path / "faces"
    small_faces.write(faces)
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests"), "JAX_PLATFORMS": "cpu"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(i), str(port), str(faces), str(tmp_path / "two")],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    # One process continues what two have finished; its numbers are those of one that did it all.
    together = Run(config(faces), tmp_path / "two").run()
    alone = Run(config(faces), tmp_path / "one").run()
    for stage, other in zip(together["stages"], alone["stages"], strict=True):
        assert stage["last"] == pytest.approx(other["last"], rel=1e-5)
