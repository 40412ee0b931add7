import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from kd_jax.train import main

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = ROOT / "tests" / "small_config.py"


def command(workdir, *more):
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests"), "JAX_PLATFORMS": "cpu"}
    arguments = [f"--config={CONFIG}", f"--workdir={workdir}", *more]
    return subprocess.Popen(
        [sys.executable, "-m", "kd_jax.train", *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def results(workdir):
    """What must not depend on how often a run was killed."""
    summary = json.loads((workdir / "results.json").read_text())
    for stage in summary["stages"]:
        del stage["seconds"], stage["images_per_second"]
    return summary


@pytest.fixture(scope="module")
def unharmed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("unharmed")
    process = command(workdir)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert "| student" in out
    assert "[student] epoch 2, loss" in err
    return results(workdir)


def wait_for(pattern, workdir, process, after=0):
    """Waits until a file matches, then for a number of further ones to come and go."""
    seen = set()
    while process.poll() is None:
        seen |= {path.name for path in workdir.glob(pattern)}
        if len(seen) > after:
            return
        time.sleep(0.001)


def test_killed_at_any_moment_it_ends_with_the_same_numbers(unharmed, tmp_path):
    moments = [
        ("config.json", 0),  # nothing is trained yet
        ("teacher/checkpoints/*orbax-checkpoint-tmp*", 0),  # while the first checkpoint is written
        ("teacher/checkpoints/*orbax-checkpoint-tmp*", 1),  # while a later one is written
        ("student/metrics.jsonl", 0),  # evaluated, but not saved yet
    ]
    for pattern, after in moments:
        process = command(tmp_path)
        wait_for(pattern, tmp_path, process, after)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it ended before it could be killed"
        assert not (tmp_path / "results.json").exists()
    process = command(tmp_path)
    _, err = process.communicate()
    assert process.returncode == 0, err
    assert results(tmp_path) == unharmed


def test_sigterm_saves_where_it_stands(unharmed, tmp_path):
    process = command(tmp_path, "--config.stages.teacher.evaluate_every=2.0")
    wait_for("teacher/checkpoints", tmp_path, process)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate()
    assert process.returncode == 143, err
    assert "the same command goes on from there" in err
    assert "Traceback" not in err
    process = command(tmp_path, "--config.stages.teacher.evaluate_every=2.0")
    _, err = process.communicate()
    assert process.returncode == 0, err
    found = results(tmp_path)
    assert [s["last"] for s in found["stages"]] == [s["last"] for s in unharmed["stages"]]


@pytest.fixture
def run(capsys, monkeypatch):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["train", *arguments])
        return main(), capsys.readouterr()

    return run


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "--config is missing: type for example"),
        ([f"--config={CONFIG}"], "--workdir is missing"),
        (["--config=configs/none.py", "--workdir=x"], "--config cannot be read"),
        (["--nosuch=1"], "Unknown command line flag 'nosuch'"),
        (["somewhere"], "somewhere is not understood"),
        ([f"--config={CONFIG}", "--config.sed=1"], "no key 'sed': did you mean 'seed'?"),
        ([f"--config={CONFIG}", "--config.seed=x"], "--config.seed=x"),
        (
            [f"--config={ROOT}/configs/quickstart.py:smok", "--workdir=x"],
            "'smok' is unknown: choose among smoke",
        ),
        ([f"--config={CONFIG}", "--workdir=/dev/null/x"], "--workdir=/dev/null/x cannot be used"),
    ],
)
def test_what_the_user_can_mend_is_one_sentence_and_exit_code_2(run, arguments, says):
    code, printed = run(*arguments)
    assert code == 2
    assert says in printed.err
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1


def test_help_shows_the_command(run):
    code, printed = run("--help")
    assert code == 0
    assert "--config=configs/quickstart.py" in printed.out
