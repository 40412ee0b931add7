"""Faces of eight persons: patterns of 14x12 pixels with noise."""

import pathlib

import numpy as np
import small_config
from PIL import Image

PERSONS = 8
IMAGES = 5


def write(folder: pathlib.Path, scale: int = 2) -> None:
    """Files `Person_0/Person_0_0001.png`, a list of pairs and one of persons.

    The images are 7 and 6 times `scale` pixels high and wide.
    """
    rng = np.random.default_rng(0)
    for person in range(PERSONS):
        name = f"Person_{person}"
        pattern = rng.integers(40, 216, (7, 6, 3)).repeat(scale, 0).repeat(scale, 1)
        (folder / name).mkdir(parents=True)
        for number in range(1, IMAGES + 1):
            noisy = np.clip(pattern + rng.normal(0, 20, pattern.shape), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(folder / name / f"{name}_{number:04d}.png")
    same, other = [], []
    for i in range(20):
        a, b = i % PERSONS, (i + 1 + i // PERSONS) % PERSONS
        x, y = rng.choice(IMAGES, 2, replace=False) + 1
        same.append(f"Person_{a}\t{x}\t{y}")
        other.append(f"Person_{a}\t{x}\tPerson_{b}\t{y}")
    (folder / "pairs.txt").write_text("\n".join(["20", *same, *other]) + "\n")
    (folder / "persons.txt").write_text("\n".join(f"Person_{i}" for i in range(6)) + "\n")


def get_config(folder: pathlib.Path, **data) -> dict:
    """KDim with the tiny network: a teacher of sharp faces, a student of degraded ones."""
    config = small_config.get_config().to_dict()
    source = {"name": "face_folder", "path": str(folder), "include": str(folder / "persons.txt")}
    config["data"] = {
        "source": source,
        "batch_size": 8,
        "eval_batch_size": 8,
        "augmentation": {"flip": True},
        "normalization": {"mean": (0.5,), "std": (128 / 255,)},
        **data,
    }
    student = config["stages"]["student"]
    student["method"] = {"name": "kdim"}
    student["networks"]["student"] = {
        "name": "tiny",
        "degradation": {"sizes": (3, 5), "probability": 0.5, "up": "bilinear"},
    }
    return config
