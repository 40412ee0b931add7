"""The public surface: what `import kd_jax` gives, and what it needs."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

import kd_jax

ROOT = pathlib.Path(__file__).parents[1]
API = (ROOT / "docs" / "api.md").read_text()

BARE = """
import importlib.abc, sys

class Refuse(importlib.abc.MetaPathFinder):
    names = {"array_record", "grain", "matplotlib", "ml_collections", "PIL", "scipy",
             "sklearn", "tensorflow_datasets", "tqdm", "cv2"}
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

for name in list(sys.modules):
    assert name.partition(".")[0] not in Refuse.names, name
sys.meta_path.insert(0, Refuse())
"""


def python(code):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_costs_nothing():
    names = python("import sys, kd_jax; print(*sys.modules)").split()
    assert not {"jax", "flax", "numpy"} & set(names)


@pytest.mark.parametrize("name", kd_jax.__all__)
def test_every_public_name_is_there(name):
    assert getattr(kd_jax, name) is not None
    assert name in dir(kd_jax)


def test_the_page_lists_every_public_name():
    for name in kd_jax.__all__:
        if name not in ("data", "evaluation", "training"):  # packages without a stable surface
            assert re.search(rf"\b{name}\b", API), name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nosuch"):
        _ = kd_jax.nosuch


def test_losses_models_methods_and_steps_need_no_extra_package():
    code = """
import jax, jax.numpy as jnp, optax, kd_jax
network = kd_jax.models.create("resnet8", num_classes=3, width=0.25)
image = jnp.zeros((2, 8, 8, 3))
variables = jax.eval_shape(lambda: network.init(jax.random.key(0), image, train=False))
stage = kd_jax.Stage({"teacher": network, "student": network}, kd_jax.methods.KD(), optax.sgd(0.1))
batch = {"image": image, "label": jnp.zeros(2, jnp.int32)}
def first(teacher):
    state = kd_jax.init_state(stage, batch, {"teacher": teacher})
    return kd_jax.train_step(stage, state, {"teacher": teacher}, batch)[1]
print(sorted(jax.eval_shape(first, variables)))
try:
    kd_jax.run
except ImportError as error:
    print(error)
"""
    out = python(BARE + code)
    assert "'soft_target_kl'" in out
    assert "pip install 'kd_jax[train]'" in out
