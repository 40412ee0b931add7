import numpy as np
import pytest
from PIL import Image

PERSONS, IMAGES = 8, 5


@pytest.fixture(scope="session")
def faces(tmp_path_factory):
    """A folder of noisy patterns, 14x12 pixels, 8 persons with 5 images each; and `pairs.txt`."""
    folder = tmp_path_factory.mktemp("faces")
    rng = np.random.default_rng(0)
    for person in range(PERSONS):
        pattern = rng.integers(40, 216, (7, 6, 3)).repeat(2, 0).repeat(2, 1)
        (folder / f"Person_{person}").mkdir()
        for number in range(1, IMAGES + 1):
            noisy = np.clip(pattern + rng.normal(0, 25, pattern.shape), 0, 255).astype(np.uint8)
            path = folder / f"Person_{person}" / f"Person_{person}_{number:04d}.png"
            Image.fromarray(noisy).save(path)
    same, different = [], []
    for i in range(20):
        a, b = i % PERSONS, (i + 1 + i // PERSONS) % PERSONS
        x, y = rng.choice(IMAGES, 2, replace=False) + 1
        same.append(f"Person_{a}\t{x}\t{y}")
        different.append(f"Person_{a}\t{x}\tPerson_{b}\t{y}")
    (folder / "pairs.txt").write_text("\n".join(["20", *same, *different]) + "\n")
    return folder
