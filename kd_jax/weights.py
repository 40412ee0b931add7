"""Networks that another stage has trained: where they lie, what they are, and reading them."""

import dataclasses
import hashlib
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Sharding

from kd_jax.errors import UsageError
from kd_jax.training import Checkpoints

PyTree = Any
FINISHED = "stage.json"
"""The file that a stage's folder holds when the stage has run to its end."""


@dataclasses.dataclass(frozen=True)
class Weights:
    """A network of a finished stage.

    Attributes:
        folder: of the stage.
        role: of the network in it.
        step: of the checkpoint.
        network: what `kd_jax.models.create` made it of: `name` and `options`; and the `resolution`
            that it saw.
    """

    folder: epath.Path
    role: str
    step: int
    network: dict[str, Any]

    @classmethod
    def find(cls, folder: epath.Path, role: str, which: str, key: str) -> "Weights":
        """Finds a network.

        Args:
            folder: of a finished stage.
            role: of the network in it.
            which: `"last"` or `"best"` checkpoint.
            key: config key to name in an error.
        """
        if not (folder / FINISHED).exists():
            raise UsageError(
                f"{key} = {str(folder)!r} is no finished stage: name an earlier stage of the"
                f" pipeline, or the folder of a stage that ran to its end (it holds {FINISHED})."
            )
        with Checkpoints(folder / "checkpoints") as checkpoints:
            step = checkpoints.latest if which == "last" else checkpoints.best
            if step is None:
                raise UsageError(f"{key} = {str(folder)!r} holds no checkpoints: run it again.")
            networks = checkpoints.read_json(step, "meta")["networks"]
        if role not in networks:
            known = ", ".join(networks)
            raise UsageError(f"{key} = {str(folder)!r} holds the roles {known}, but no {role!r}.")
        return cls(folder, role, step, networks[role])

    def read(self, template: PyTree, sharding: Sharding) -> PyTree:
        """The variables, in the shapes of `template`."""
        with Checkpoints(self.folder / "checkpoints") as checkpoints:
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


def content_hash(tree: PyTree) -> str:
    """Hash of all arrays of a tree, with their names."""
    digest = hashlib.blake2b(digest_size=16)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(array.view(np.uint8))
    return digest.hexdigest()
