"""Networks that a stage has trained: where they lie, what they are, and reading them."""

import dataclasses
import hashlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Sharding

from kd_jax import models
from kd_jax.data import Normalisation, View, Views
from kd_jax.errors import UsageError
from kd_jax.files import PathLike, folder
from kd_jax.models import Outputs
from kd_jax.training import Checkpoints

PyTree = Any
CHECKPOINTS = ("last", "best")
FINISHED = "stage.json"
"""The file that a stage's folder holds when the stage has run to its end."""


@dataclasses.dataclass(frozen=True)
class NetworkCard:
    """What one must know of a network to use its weights; written into every checkpoint as JSON.

    Attributes:
        name: of the architecture.
        options: of the architecture, as `kd_jax.models.create` takes them.
        num_classes: number of logits.
        size: (height, width) of what it sees.
        filter: with which images are brought to that size.
        mean: of each channel of the images it was trained on, on the scale 0 to 1.
        deviation: standard deviation of each channel, on the same scale.
    """

    name: str
    options: dict[str, Any]
    num_classes: int
    size: tuple[int, int]
    filter: str
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "NetworkCard":
        """The card that was written by `dataclasses.asdict`."""
        lists = {key: tuple(values[key]) for key in ("size", "mean", "deviation")}
        return cls(**{**values, **lists})

    def module(self, axis_name: str | None = None) -> nn.Module:
        """The network; `axis_name` is that of `pmap`."""
        axis = {} if axis_name is None else {"axis_name": axis_name}
        return models.create(self.name, num_classes=self.num_classes, **axis, **self.options)

    @property
    def view(self) -> View:
        """How it sees images."""
        return View(self.size, Normalisation(self.mean, self.deviation))


@dataclasses.dataclass(frozen=True)
class Weights:
    """A network of a finished stage.

    Attributes:
        folder: of the stage.
        role: of the network in it.
        step: of the checkpoint.
        card: what the network is.
    """

    folder: epath.Path
    role: str
    step: int
    card: NetworkCard

    @classmethod
    def find(cls, folder: epath.Path, role: str, which: str, key: str) -> "Weights":
        """Finds a network.

        Args:
            folder: of a finished stage.
            role: of the network in it.
            which: `"last"` or `"best"` checkpoint.
            key: config key to name in an error.
        """
        if which not in CHECKPOINTS:
            raise UsageError(f"{key}: checkpoint {which!r} is unknown: choose last or best.")
        if not (folder / FINISHED).exists():
            raise UsageError(
                f"{key} = {str(folder)!r} is no finished stage: name an earlier stage of the"
                f" pipeline, or the folder of a stage that ran to its end (it holds {FINISHED})."
            )
        with Checkpoints(folder / "checkpoints", read_only=True) as checkpoints:
            step = checkpoints.latest if which == "last" else checkpoints.best
            if step is None:
                raise UsageError(f"{key} = {str(folder)!r} holds no checkpoints: run it again.")
            networks = checkpoints.read_json(step, "meta")["networks"]
        if role not in networks:
            known = ", ".join(networks)
            raise UsageError(f"{key} = {str(folder)!r} holds the roles {known}, but no {role!r}.")
        return cls(folder, role, step, NetworkCard.from_json(networks[role]))

    def read(self, template: PyTree, sharding: Sharding) -> PyTree:
        """The variables, in the shapes of `template`."""
        with Checkpoints(self.folder / "checkpoints", read_only=True) as checkpoints:
            return checkpoints.restore_network(self.step, self.role, template, sharding)

    def provenance(self, variables: PyTree, workdir: epath.Path) -> dict[str, Any]:
        """What a checkpoint says of a network that it was trained against, JSON."""
        inside = self.folder.is_relative_to(workdir)
        folder = self.folder.relative_to(workdir) if inside else self.folder
        return {
            "folder": str(folder),
            "role": self.role,
            "step": self.step,
            "hash": content_hash(variables),
        }


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """A trained network, ready to use.

    Attributes:
        network: the module.
        variables: its parameters and batch statistics.
        views: resampling and normalisation as in training, for the one role `student`.
    """

    network: nn.Module
    variables: PyTree
    views: Views

    def __call__(self, images: jax.Array) -> Outputs:
        """Logits, embedding and maps of uint8 images `[N, H, W, C]`, 0 to 255; may be jitted."""
        view = self.views.evaluation(jnp.asarray(images))["student"]
        return self.network.apply(self.variables, view, train=False)


def load(
    stage: PathLike, *, role: str = "student", checkpoint: str = "last", key: str = "stage"
) -> Trained:
    """Reads a trained network on the default device, whatever it was trained on.

    Args:
        stage: folder of a finished stage, such as `runs/quickstart/student`.
        role: which network of the stage.
        checkpoint: `"last"` or `"best"`.
        key: what an error calls the stage.

    Raises:
        UsageError: if there is no such network. One of your own must have been imported, so that it
            is registered.
    """
    weights = Weights.find(folder(stage), role, checkpoint, key)
    card = weights.card
    network = card.module()
    view = jax.ShapeDtypeStruct((1, *card.size, len(card.mean)), jnp.float32)
    shapes = jax.eval_shape(lambda x: network.init(jax.random.key(0), x, train=False), view)
    variables = weights.read(shapes, jax.sharding.SingleDeviceSharding(jax.devices()[0]))
    return Trained(network, variables, Views({"student": card.view}, filter=card.filter))


def content_hash(tree: PyTree) -> str:
    """Hash of all arrays of a tree, with their names."""
    digest = hashlib.blake2b(digest_size=16)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(array.view(np.uint8))
    return digest.hexdigest()
