"""The confusion matrix of a trained stage on the test images."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from kd_jax.core.devices import place, replicated, split
from kd_jax.core.files import write_file
from kd_jax.data.loaders import Loader, batch_of
from kd_jax.experiment.plan import Plan
from kd_jax.experiment.stage_metrics import tests_new_classes
from kd_jax.experiment.stored import CONFUSION
from kd_jax.training import Stage, TrainState

PyTree = Any
MOST_CLASSES = 100
"""Greatest number of classes of which a matrix is made."""


def count_confusions(
    stage: Stage,
    state: TrainState,
    frozen: Mapping[str, PyTree],
    loader: Loader,
    mesh: Mesh,
    batch_size: int,
    num_classes: int,
) -> np.ndarray:
    """Returns the number of images by label (row) and by prediction (column), int64 `[C, C]`.

    The prediction is the greatest logit of the first output of the stage. An image with a logit
    that is NaN counts for some class. All processes of a run must call it.

    Args:
        stage: the stage.
        state: the trained state, with the values to evaluate.
        frozen: variables of the frozen networks.
        loader: the images.
        mesh: devices over which a batch is split.
        batch_size: number of images per batch, over all devices.
        num_classes: number of classes C.
    """
    main, whole, batches = stage.method.predictions[0], replicated(mesh), split(mesh)
    trained = {role: state.variables(role) for role in stage.trained}

    def predict(variables, adapters, images, rows):
        batch = batch_of(images, rows)
        outputs = stage.predict(variables, adapters, batch["image"])
        return outputs[main].logits.argmax(-1), batch["label"], batch["where"]

    compiled = jax.jit(predict, out_shardings=whole)
    counts = np.zeros((num_classes, num_classes), np.int64)
    for rows in loader.batches(batch_size):
        placed = {name: place(array, batches) for name, array in rows.items()}
        found = compiled({**frozen, **trained}, state.adapters, loader.images, placed)
        guess, label, where = (np.asarray(array) for array in found)
        np.add.at(counts, (label[where], guess[where]), 1)
    return counts


def write_confusion(
    plan: Plan,
    name: str,
    folder: epath.Path,
    loader: Callable[[str], Loader],
    state: TrainState,
    frozen: Mapping[str, PyTree],
) -> None:
    """Writes the confusion matrix of the test images, if there are some and not too many classes.

    Args:
        plan: the plan of the run.
        name: name of the stage.
        folder: folder of the stage.
        loader: returns the images of a split.
        state: the trained state.
        frozen: variables of the frozen networks.
    """
    classes, size = plan.images["train"].num_classes, plan.spec.data.eval_batch_size
    if "test" not in plan.images or classes > MOST_CLASSES or tests_new_classes(plan.images):
        return
    stage, images = plan.stages[name], loader("test")
    counts = count_confusions(stage, state.averaged, frozen, images, plan.mesh, size, classes)
    if jax.process_index() == 0:
        write_file(folder / CONFUSION, json.dumps({"counts": counts.tolist()}) + "\n")
