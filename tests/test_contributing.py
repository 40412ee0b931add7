"""CONTRIBUTING.md is complete: its files, added to a copy of the package, work in a run."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
BLOCKS = re.findall(r"```python\n# (line in )?(kd_jax/\S+)\n(.*?)```", TEXT, re.S)

RUN = """
import sys
import kd_jax

teacher = {"networks": {"student": {"name": "linear"}}, "method": {"name": "supervised"}}
student = {
    "networks": {"teacher": {"init_from": "teacher"}, "student": {"name": "linear"}},
    "method": {"name": "cosine", "cosine_weight": 0.5},
    "evaluators": {"sure": {"name": "confidence"}},
    "best": "sure/confidence",
}
lion = {"default": {"name": "lion", "learning_rate": 1e-3}}
for stage in (teacher, student):
    stage |= {"optimizers": lion, "epochs": 1}
config = {
    "experiment": "contributing",
    "data": {"source": {"name": "stripes"}, "batch_size": 16, "eval_batch_size": 16},
    "stages": {"teacher": teacher, "student": student},
}
last = kd_jax.run(config, sys.argv[1])["stages"][1]["last"]
assert 0.5 <= last["sure/confidence"] <= 1, last
assert "cosine" in kd_jax.methods.names() and "linear" in kd_jax.models.names()
assert kd_jax.losses.cosine_distance([[1.0, 0.0]], [[0.0, 2.0]]) == 1
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """Returns the folder of a copy of the package with everything that the document adds."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "kd_jax", folder / "kd_jax")
    for line, path, code in BLOCKS:
        file = folder / path
        assert file.exists() == bool(line), path
        file.write_text(file.read_text() + code if line else code)
    registry = folder / "kd_jax" / "models" / "registry.py"
    code = registry.read_text()
    assert code.count("wide_resnet") == 2  # the import and the tuple
    registry.write_text(code.replace("wide_resnet", "linear, wide_resnet"))
    return folder


def python(package, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(package), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=package, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_adds_one_of_each_kind():
    files = [path for line, path, _ in BLOCKS if not line]
    folders = ["losses", "methods", "models", "data/sources", "evaluation/evaluators", "commands"]
    assert [path.rpartition("/")[0] for path in files] == [f"kd_jax/{name}" for name in folders]
    assert [path for line, path, _ in BLOCKS if line] == [
        "kd_jax/losses/__init__.py",
        "kd_jax/methods/__init__.py",
    ]


def test_the_files_work_in_a_run(package, tmp_path):
    python(package, "-c", RUN, str(tmp_path))


def test_the_command_is_listed_and_runs(package):
    assert "hello  " in python(package, "-m", "kd_jax")
    assert python(package, "-m", "kd_jax", "hello", "--name=Ada") == "Hello, Ada!\n"
