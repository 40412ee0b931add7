"""What the README shows works."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import embedding, models, weights

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def execute(word, **names):
    """Runs the one Python block that holds a word; returns its names."""
    (block,) = (block for block in BLOCKS if word in block)
    exec(compile(block, "README.md", "exec"), names)
    return names


def test_a_loss_works_in_other_code():
    gradient = execute("losses.pair_relation")["gradient"]
    student, teacher = jax.random.normal(jax.random.key(0), (2, 8, 4))
    found = gradient(student, teacher)
    assert found.shape == (8, 4)
    assert np.abs(found).max() > 0


def test_a_network_of_ones_own_works():
    execute("@models.register")
    network = models.create("mine", num_classes=7, width=0.5)
    outputs, _ = network.init_with_output(jax.random.key(0), jnp.ones((2, 8, 8, 3)), train=False)
    assert outputs.logits.shape == (2, 7)
    assert outputs.embedding.shape == (2, 32)


def test_a_trained_student_is_loaded(monkeypatch):
    monkeypatch.setattr(weights, "load", lambda folder: lambda images: (folder, images))
    monkeypatch.setattr(embedding, "Embedder", lambda trained: trained)
    names = execute("weights import load", images=3)
    assert names["outputs"] == names["embeddings"] == ("runs/quickstart/student", 3)


@pytest.mark.parametrize("file", ["README.md", "configs/ekd/README.md", "configs/kdim/README.md"])
def test_files_it_names_exist(file):
    text = (ROOT / file).read_text()
    paths = re.findall(r"(?:configs|experiments)/[\w/]+\.\w+", text)
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []
