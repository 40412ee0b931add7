"""Compares two processes with one process: a Slurm job, and every method."""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import fake_bucket
import pytest
import small_config
import small_faces
import small_pod
from etils import epath

from kd_jax import methods
from kd_jax.core.devices import data_mesh
from kd_jax.experiment.run import Run

TESTS = pathlib.Path(__file__).parent
SLURM = TESTS.parent / "docs" / "examples" / "slurm.sh"
SRUN = """#!/bin/bash
# srun on one machine: two tasks, with the variables of Slurm that JAX reads.
export SLURM_STEP_NODELIST=localhost SLURM_STEP_NUM_NODES=1 SLURM_NTASKS=2
for task in 0 1; do
  SLURM_PROCID=$task SLURM_LOCALID=$task "${@:2}" &
  echo $! > "$TASKS/$task"
done
code=0
for job in $(jobs -p); do
  wait "$job" || code=$?
done
exit $code
"""


def job_number():
    """Returns the number of a job for which JAX chooses a port that is free.

    It takes the last 4096 ports, by the number of the job: jax/_src/clusters/slurm_cluster.py.
    """
    for number in range(os.getpid(), os.getpid() + 4096):
        with socket.socket(socket.AF_INET6) as trial:
            try:
                trial.bind(("::", 2**16 - 2**12 + number % 2**12))
                return number
            except OSError:
                continue
    raise RuntimeError("no port is free")


def start_job(folder, workdir, faces, bucket):
    """Runs `docs/examples/slurm.sh` with small values, on this machine."""
    programs = {
        "activate": "",
        "srun": SRUN,
        "scontrol": f'#!/bin/bash\necho "$@" > {folder}/scontrol\n',
        "kd-jax": f'#!/bin/bash\nexec {sys.executable} -m kd_jax "$@"'
        f" --import={fake_bucket.__file__}\n",
    }
    (folder / "bin").mkdir()
    for name, text in programs.items():
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    values = {
        "environment": folder,
        "config": f"{small_pod.__file__}:{faces}",
        "workdir": workdir,
    }
    lines = SLURM.read_text().splitlines()
    lines = [
        f"{n}={values[n]}" if (n := line.partition("=")[0]) in values else line for line in lines
    ]
    (folder / "job.sh").write_text("\n".join(lines))
    environment = {
        **os.environ,
        **bucket.environment(),
        "JAX_NUM_CPU_DEVICES": "2",
        "JAX_PLATFORMS": "cpu",
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(TESTS),
        "SLURM_JOB_ID": str(job_number()),
        "TASKS": str(folder),
    }
    command = ["bash", folder / "job.sh"]
    return subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


@contextlib.contextmanager
def ended_at_last(job):
    """Ends all processes of a job, also after a failed test."""
    try:
        yield job
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)


def started(script, out, *words):
    """Starts a script of this folder on the CPU. A full pipe would stop it, so `out` is a file."""
    with out.open("w") as file:
        return subprocess.Popen(
            [sys.executable, TESTS / script, *map(str, words)],
            env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(TESTS)},
            stdout=file,
            start_new_session=True,
        )


def lines_of(script, folder, processes, *words):
    """Runs a script in several processes; returns the lines of JSON that each of them prints."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    outs = [folder / f"{i}_of_{processes}" for i in range(processes)]
    jobs = [started(script, out, i, processes, port, *words) for i, out in enumerate(outs)]
    with contextlib.ExitStack() as stack:
        for job in jobs:
            stack.enter_context(ended_at_last(job))
        assert [job.wait(timeout=600) for job in jobs] == [0] * processes
    lines = [out.read_text().splitlines() for out in outs]  # Gloo writes lines, too
    return [[json.loads(line) for line in each if line.startswith("{")] for each in lines]


@pytest.mark.long
def test_every_method_on_two_processes_of_four_devices_and_on_one_of_eight(tmp_path):
    found = [each for n in (1, 2) for each in lines_of("every_method.py", tmp_path, n)]
    assert [next(iter(one)) for one in found[0]] == list(methods.names())
    for one, *others in zip(*found, strict=True):
        (name,) = one
        for other in others:
            for key, value in one[name].items():
                assert other[name][key] == pytest.approx(value, rel=1e-5, abs=1e-6), (name, key)


@pytest.mark.long
def test_streamed_runs_on_two_processes_of_four_devices_and_on_one_of_eight(tmp_path):
    """HORKD, EKD and KDim, trained to their ends on images that are decoded batch by batch."""
    small_faces.write(tmp_path / "faces")
    found = []
    for n in (1, 2):
        workdir = tmp_path / f"runs{n}"
        found += lines_of("streamed_runs.py", tmp_path, n, tmp_path / "faces", workdir)
    assert [list(one) for one in found[0]] == [["horkd"], ["ekd"], ["kdim"]]
    for one, *others in zip(*found, strict=True):
        ((name, stages),) = one.items()
        for other in others:
            assert list(other[name]) == list(stages)
            for stage, last in stages.items():
                assert other[name][stage] == pytest.approx(last, rel=1e-5), (name, stage)


@pytest.mark.slow
def test_two_processes_of_a_slurm_job_stop_and_one_resumes(tmp_path, monkeypatch):
    """The folder of the run is in a bucket, and one process gets SIGTERM in the second stage."""
    faces = tmp_path / "faces"
    small_faces.write(faces)
    config = small_pod.get_config(str(faces))
    with fake_bucket.Bucket() as bucket:
        for name, value in bucket.environment().items():
            monkeypatch.setenv(name, value)
        workdir = epath.Path("gs://bucket/run")
        with ended_at_last(start_job(tmp_path, workdir, faces, bucket)) as job:
            while not any("student/checkpoints" in name for name in list(bucket.objects)):
                assert job.poll() is None, job.stderr.read()
                time.sleep(0.01)
            os.kill(int((tmp_path / "1").read_text()), signal.SIGTERM)
            errors = job.communicate(timeout=300)[1]
            assert job.returncode == 128 + signal.SIGTERM, errors
            assert errors.count("stopped: stage 'student' is saved at step ") == 2, errors
            assert (tmp_path / "scontrol").read_text().startswith("requeue ")
        config.checkpoint_minutes = 10.0  # this key may change
        monkeypatch.setattr("kd_jax.experiment.run.data_mesh", lambda _: data_mesh(1))
        with small_config.compiled_once(tmp_path / "programs"):
            together = Run(config, workdir).run()
            alone = Run(config, tmp_path / "one").run()
    device = together["stages"][0]["device"]
    assert (device["count"], device["processes"]) == (4, 2)
    for stage, other in zip(together["stages"], alone["stages"], strict=True):
        assert stage["last"] == pytest.approx(other["last"], rel=1e-5)
