import subprocess
import sys

CODE = """
import importlib.abc, sys

OTHERS = {"PIL", "cv2", "etils", "flax", "grain", "optax", "scipy", "tensorflow_datasets"}

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in OTHERS:
            raise ImportError(name)

sys.meta_path.insert(0, Missing())
import jax, jax.numpy as jnp
from kd_jax.data import preprocessing

view = preprocessing.View((4, 4), preprocessing.Normalization((0.5,), (0.25,)))
augmentation = preprocessing.Augmentation(crop_padding=1, flip=True)
views = preprocessing.Views({"student": view}, augmentation)
rows, images = jnp.arange(2), jnp.zeros((2, 4, 4, 1), jnp.uint8)
print(views.training(jax.random.key(0), images, rows)["student"].shape)
"""


def test_preprocessing_needs_only_jax_and_numpy():
    found = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert found.stdout == "(2, 4, 4, 1)\n"
