"""The command that trains: its options, its errors, and its end by a signal."""

import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
import time

import pytest

from kd_jax.commands.train import main
from kd_jax.experiment.config_files import load_config

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = ROOT / "tests" / "small_config.py"


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """Starts the command in a process of its own."""
    programs = tmp_path_factory.mktemp("programs")

    def start(workdir, *more, module=("kd_jax", "train"), limits=None):
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT / "tests"),
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(programs),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        arguments = [f"--config={CONFIG}", f"--workdir={workdir}", *more]
        process = subprocess.Popen(
            [sys.executable, "-m", *module, *arguments],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name, value in (limits or {}).items():  # long before its first file
            resource.prlimit(process.pid, name, (value, value))
        return process

    return start


def results(workdir):
    """Returns the results that do not depend on how often a run was killed."""
    summary = json.loads((workdir / "results.json").read_text())
    for stage in summary["stages"]:
        del stage["seconds"], stage["images_per_second"]
    return summary


@pytest.fixture(scope="module")
def unharmed(command, tmp_path_factory):
    """Results of a run that was never stopped."""
    workdir = tmp_path_factory.mktemp("unharmed")
    process = command(workdir)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert "| student" in out
    assert f"results.json, report.md, report.html and curves.png are in {workdir}" in out
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


@pytest.mark.long
def test_killed_at_any_moment_it_ends_with_the_same_numbers(command, unharmed, tmp_path):
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
    process = command(tmp_path, module=("kd_jax.train",))  # the same command
    _, err = process.communicate()
    assert process.returncode == 0, err
    assert results(tmp_path) == unharmed


@pytest.mark.long
def test_a_disk_that_takes_no_large_files_is_one_sentence(command, unharmed, tmp_path):
    """A limit on the size of files stands for a full disk; the checkpoints are above it."""
    teacher = "--stages=teacher"
    process = command(tmp_path, teacher, limits={resource.RLIMIT_FSIZE: 40_000})
    _, err = process.communicate()
    assert process.returncode == 2, err
    assert "Traceback" not in err
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert "run the same command again" in line
    process = command(tmp_path, teacher)
    _, err = process.communicate()
    assert process.returncode == 0, err
    assert results(tmp_path)["stages"] == unharmed["stages"][:1]


@pytest.mark.slow
def test_sigterm_saves_and_the_same_command_resumes(command, tmp_path, capsys):
    """This process resumes. `test_faces.py` compares the numbers after a signal."""
    options = ("--stages=teacher", "--config.stages.teacher.evaluate_every=2.0")
    process = command(tmp_path, *options, "--config.checkpoint_minutes=1e-6")
    wait_for("teacher/checkpoints/*", tmp_path, process)  # there is a state to save
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate()
    assert process.returncode == 143, err
    assert "SIGTERM: saving and stopping at the next step" in err
    assert "the same command resumes there" in err
    assert "Traceback" not in err
    assert main([f"--config={CONFIG}", f"--workdir={tmp_path}", *options]) == 0
    printed = capsys.readouterr()
    assert "| teacher" in printed.out
    assert f"results.json, report.md, report.html and curves.png are in {tmp_path}" in printed.out
    assert "resumes at step " in printed.err
    assert "[teacher] epoch 2, loss" in printed.err
    (teacher,) = results(tmp_path)["stages"]
    assert teacher["last"]["step"] == 20


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "--config is missing: type for example `kd-jax train --config=quickstart"),
        (["--config=quickstart"], "--workdir is missing"),
        (["--config=configs/none.py", "--workdir=x"], "configs/none.py is no file, and no config"),
        (["--config=quickstart:smok", "--workdir=x"], "'smok' is unknown: choose one of smoke"),
        ([f"--config={CONFIG}", "--workdir=x", "--config.sed=1"], "sed is not used by Experiment"),
        ([f"--config={CONFIG}", "--workdir=x", "--config.seed=x"], "seed = 'x' must be int"),
        ([f"--config={CONFIG}", "--workdir=x", "--config.seed"], "--config.seed needs a value"),
        (["--config.seed", "--config=quickstart"], "--config.seed needs a value"),
        (
            [f"--config={CONFIG}", "--workdir=/dev/null/x"],
            "--workdir=/dev/null/x cannot be written",
        ),
        (
            [f"--config={CONFIG}", "--workdir=x", "--stages=studnt"],
            "--stages = 'studnt' is unknown",
        ),
        (
            [f"--config={CONFIG}", "--workdir=x", "--stages=student"],
            "networks.teacher.init_from = '",
        ),
        (
            [f"--config={CONFIG}", "--print_config", "--config.data.filter=cubic"],
            "data: filter = 'cubic' is unknown",
        ),
    ],
)
def test_what_the_user_can_fix_is_one_sentence(
    one_sentence, tmp_path, monkeypatch, arguments, says
):
    monkeypatch.chdir(tmp_path)
    assert says in one_sentence(main, *arguments)
    assert not list(tmp_path.iterdir())


def test_imports_of_a_config_must_be_a_list(one_sentence, tmp_path):
    config = tmp_path / "config.py"
    config.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config():\n    return ConfigDict({'imports': 'mine.py'})\n"
    )
    says = "imports = 'mine.py' must be a list of files or module names"
    assert says in one_sentence(main, f"--config={config}", "--print_config")


def test_help_lists_options_and_keys(capsys):
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    for option in ("--config", "--workdir", "--stages", "--print_config", "--multihost"):
        assert f"  {option}" in printed
    assert "--config=quickstart" in printed
    assert "  data.batch_size (required)\n      number of images per training step" in printed
    assert "  stages.NAME.networks.NAME.init_from (None)\n" in printed
    assert "keys of stages.NAME.method with the name kd:\n  temperature (4.0)\n" in printed
    assert "keys of data.source with the name folder:\n  path (required)\n" in printed


def printed_config(capsys, *arguments):
    """Returns value and text of every key that `--print_config` prints."""
    assert main([f"--config={CONFIG}", "--print_config", *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    return {line.partition(" = ")[0]: line.partition(" = ")[2].split("  # ") for line in lines}


def test_print_config_prints_every_key_and_writes_nothing(capsys, tmp_path):
    assignments = (
        "--config.stages.student.optimizers.default.momentum=0.5",
        "--config.data.train_fraction",
        "0.5",
        f"--workdir={tmp_path / 'run'}",
    )
    found = printed_config(capsys, *assignments)
    assert found["seed"] == ["0", "seed of everything random."]
    assert found["pipeline"][0] == "['teacher', 'student']"
    assert found["stages.student.optimizers.default.momentum"][0] == "0.5"
    assert found["stages.teacher.optimizers.default.momentum"][0] == "0.9"
    assert found["data.train_fraction"][0] == "0.5"
    assert found["stages.student.method.name"][0] == "'horkd'"
    assert not list(tmp_path.iterdir())


def test_print_config_knows_own_parts(capsys):
    """A key of the user's own source is set, which only the config file names."""
    here = pathlib.Path(__file__).parent
    options = (f"--config={here / 'own_config.py'}", f"--import={here / 'own_parts.py'}")
    assert main([*options, "--print_config", "--config.data.source.classes=3"]) == 0
    assert "data.source.classes = 3  # number of classes." in capsys.readouterr().out


def test_a_packaged_config_by_its_name(capsys):
    assert main(["--config=quickstart:method=kd", "--print_config"]) == 0
    printed = capsys.readouterr().out
    assert "experiment = 'quickstart'" in printed
    assert "stages.student.method.temperature = 4.0  # T, at which both softmaxes" in printed
    assert load_config("quickstart").experiment == "quickstart"


def test_one_stage_starts_from_another_folder(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    sources = "--config.stages.student.networks.teacher.init_from"
    options = ("--config.stages.teacher.epochs=0.1", "--config.stages.student.epochs=0.1")
    assert main([f"--config={CONFIG}", f"--workdir={first}", "--stages=teacher", *options]) == 0
    options = (*options, f"{sources}={first / 'teacher'}", "--stages=student")
    assert main([f"--config={CONFIG}", f"--workdir={second}", *options]) == 0
    assert not (second / "teacher").exists()
    (student,) = results(second)["stages"]
    assert student["name"] == "student"
