"""The code of the README and of docs/ works as it is written."""

import json
import pathlib
import re
import shlex
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kd_jax
from kd_jax import commands, models
from kd_jax.experiment.config_files import find_config, load_config
from kd_jax.experiment.specs import experiment
from kd_jax.pretrained.recorded import read_recorded
from kd_jax.pretrained.weights import Trained

ROOT = pathlib.Path(__file__).parents[1]
DOCUMENTS = [
    "README.md",
    "docs/api.md",
    "docs/clusters.md",
    "docs/costs.md",
    "docs/large_batches.md",
    "docs/methods.md",
    "docs/retrieval.md",
    "docs/runs.md",
    "docs/promises.md",
    "docs/teachers.md",
    "CONTRIBUTING.md",
]
NOTES = ["configs/ekd/README.md", "configs/kdim/README.md"]


def execute(document, word, **names):
    """Runs the one Python block that contains a word; returns its names."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)
    (block,) = (block for block in blocks if word in block)
    exec(compile(block, document, "exec"), names)
    return names


@pytest.fixture
def networks():
    """A teacher with its variables, a student, and two batches of ready inputs."""
    teacher, student = (
        models.create("resnet8", num_classes=3, width=width) for width in (0.5, 0.25)
    )
    batch = {"image": jnp.ones((4, 8, 8, 3)), "label": jnp.arange(4, dtype=jnp.int32) % 3}
    variables = jax.jit(lambda: teacher.init(jax.random.key(0), batch["image"], train=False))()
    return {
        "teacher": teacher,
        "student": student,
        "teacher_variables": variables,
        "batches": [batch, batch],
    }


def test_a_loss_works_in_other_code():
    gradient = execute("README.md", "losses.pair_relation")["gradient"]
    student, teacher = jax.random.normal(jax.random.key(0), (2, 8, 4))
    value = gradient(student, teacher)
    assert value.shape == (8, 4)
    assert np.abs(value).max() > 0


def test_a_method_works_in_a_loop_of_ones_own(networks):
    names = execute("README.md", "kd_jax.init_state", **networks)
    assert names["state"].step == 2
    assert "soft_target_kl" in names["metrics"]


def test_the_page_of_the_api_works(networks):
    names = execute("docs/api.md", "kd_jax.methods.KD()", **networks)
    assert names["state"].step == 2
    assert set(names["student_variables"]) == {"params", "batch_stats"}
    code = names | execute("docs/api.md", "kd_jax.methods.HORKD()", **names)
    assert "center_relation" in code["metrics"]


def test_the_page_of_teachers_works(tmp_path, monkeypatch):
    names = execute("docs/teachers.md", "class Function")
    variables = {"weights": {"matrix": jnp.ones((64, 10))}}
    outputs = names["my_function"]().apply(variables, jnp.ones((2, 8, 8, 1)), train=True)
    assert (outputs.logits == 64).all()
    monkeypatch.chdir(tmp_path)
    role = execute("docs/teachers.md", "outputs.npz")["teacher"]
    config = load_config("quickstart:smoke,method=kd").to_dict()
    stage = config["stages"]["student_direct"]
    stage["networks"]["teacher"] = role | {"augmented": True}
    spec = experiment({**config, "stages": {"student": stage}, "pipeline": []})
    recorded = read_recorded(spec.stages["student"].networks["teacher"].path, "path")
    assert recorded.logits.shape == (1437, 10)


def test_a_module_of_ones_own_teaches_in_a_config(tmp_path, monkeypatch):
    """The blocks of docs/teachers.md make the files, and its command trains."""
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs/teachers.md").read_text()
    (block,) = re.findall(r"```python\n([^`]*class Net.*?)```", text, re.DOTALL)
    pathlib.Path("my_teacher.py").write_text(block)
    net = execute("docs/teachers.md", "class Net")["Net"]()
    variables = jax.jit(net.init)(jax.random.key(0), jnp.ones((1, 8, 8, 1)))
    role = execute("docs/teachers.md", "my_teacher.npz", variables=variables)["teacher"]
    (command,) = re.findall(r"```bash\nkd-jax (train --import=my_teacher.*?)```", text, re.DOTALL)
    short = ["--config=quickstart:smoke", "--config.num_devices=1"]
    short += ["--config.stages.student_direct.epochs=0.05"]
    words = shlex.split(command.replace("\\\n", ""))
    assert commands.main([*words, *short]) == 0
    folder = pathlib.Path("runs/my_teacher")
    config = json.loads((folder / "config.json").read_text())
    ours = config["stages"]["student_direct"]["networks"]["teacher"]
    assert {key: ours[key] for key in role} == role
    (stage,) = json.loads((folder / "results.json").read_text())["stages"]
    assert "accuracy/teacher" in stage["last"]


def test_a_network_of_ones_own_works():
    execute("README.md", "@kd_jax.register_network")
    network = models.create("mine", num_classes=7, width=0.5)
    outputs, _ = network.init_with_output(jax.random.key(0), jnp.ones((2, 8, 8, 3)), train=False)
    assert outputs.logits.shape == (2, 7)
    assert outputs.embedding.shape == (2, 32)


def test_a_trained_student_is_loaded(monkeypatch):
    student = mock.Mock(side_effect=lambda images: ("student", images), spec=Trained)
    monkeypatch.setattr(kd_jax, "load", {"runs/quickstart/student": student}.get)
    monkeypatch.setattr(kd_jax, "Embedder", lambda trained: trained)
    names = execute("README.md", "kd_jax.load", images=3)
    assert names["outputs"] == names["embeddings"] == ("student", 3)
    student.predict.assert_called_once_with(["photo.jpg", "other.png"])


@pytest.mark.parametrize("document", [*DOCUMENTS, *NOTES])
def test_the_files_it_names_exist(document):
    text = (ROOT / document).read_text()
    paths = re.findall(r"(?<![\w/])(?:configs|experiments|docs|tests)/[\w/]+\.\w+", text)
    links = re.findall(r"\]\(((?!https?:)[^)#]+)\)", text)
    folder = (ROOT / document).parent
    missing = [path for path in paths if not (ROOT / path).exists()]
    assert missing + [link for link in links if not (folder / link).exists()] == []


@pytest.mark.parametrize("document", [*DOCUMENTS, *NOTES])
def test_the_commands_and_configs_it_names_exist(document):
    text = (ROOT / document).read_text()
    words = set(re.findall(r"^kd-jax ([a-z]+)\b(?= )", text, re.M)) - {
        "hello"
    }  # CONTRIBUTING's example
    assert words <= set(commands.names())
    for name in re.findall(r"kd-jax train [^`]*?--config=([\w/.]+)", text):
        find_config(name)


def test_the_configs_of_the_table_exist():
    rows = re.findall(r"^\| .*?\| (.*`.*) \|", (ROOT / "README.md").read_text(), re.M)
    names = [n for row in rows for n in re.findall(r"`((?:horkd|ekd|kdim)/\w+|quickstart)\b", row)]
    assert len(set(names)) >= 10
    for name in names:
        find_config(name)
