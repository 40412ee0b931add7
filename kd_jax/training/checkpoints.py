"""Checkpoints on disk: the one module that knows Orbax."""

from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.sharding import Sharding
from orbax.checkpoint import checkpoint_managers as policies

from kd_jax.errors import UsageError
from kd_jax.files import PathLike, folder
from kd_jax.training.stage import ADAPTERS, TrainState

PyTree = Any
WORST = -1.0
"""Metric of a checkpoint that was not evaluated: worse than any accuracy, and finite, because one
NaN makes Orbax delete the best checkpoint."""


def _items(state: TrainState) -> dict[str, PyTree]:
    """The state cut into items, so that one network can be read without the rest."""
    roles = [group for group in state.params if group != ADAPTERS]
    items = {f"network_{role}": state.variables(role) for role in roles}
    items[ADAPTERS] = {"params": state.params[ADAPTERS], "state": state.method_state}
    items["optimizer"] = {"state": state.opt_state, "step": state.step}
    return {name: tree for name, tree in items.items() if jax.tree.leaves(tree)}


def _state(template: TrainState, items: Mapping[str, PyTree]) -> TrainState:
    """The inverse of `_items`."""
    adapters = items.get(ADAPTERS, {"params": {}, "state": {}})
    params, model_state = {ADAPTERS: adapters["params"]}, {}
    for role in template.model_state:
        variables = dict(items[f"network_{role}"])
        params[role] = variables.pop("params")
        model_state[role] = variables
    return TrainState(
        step=items["optimizer"]["step"],
        params={group: params[group] for group in template.params},
        model_state=model_state,
        method_state=adapters["state"],
        opt_state=items["optimizer"]["state"],
    )


def _accuracy(metrics: Mapping[str, float]) -> float:
    return metrics["accuracy"]


class Checkpoints:
    """The checkpoints of one stage: the latest two and the best are kept, each written atomically.

    Use it as a context manager: saving goes on in the background, and leaving waits for it.
    """

    def __init__(self, directory: PathLike, *, read_only: bool = False):
        """Opens a folder of checkpoints, or makes it.

        Args:
            directory: the folder.
            read_only: change nothing in it; it may be somebody else's.
        """
        self.directory = folder(directory)
        keep = [policies.LatestN(2), policies.BestN(get_metric_fn=_accuracy, n=1)]
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy(keep),
            best_fn=_accuracy,
            read_only=read_only,
        )
        try:
            self._manager = ocp.CheckpointManager(self.directory, options=options)
        except ValueError as error:
            raise UsageError(
                f"The checkpoints in {self.directory} cannot be read ({error}): the one of the"
                " greatest step is damaged, delete its folder to go on from the one before."
            ) from error

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._manager.close()

    @property
    def latest(self) -> int | None:
        """Step of the newest checkpoint, None if there is none."""
        return self._manager.latest_step()

    @property
    def best(self) -> int | None:
        """Step of the checkpoint with the greatest accuracy, None if there is none."""
        return self._manager.best_step()

    def save(
        self, state: TrainState, progress: Mapping[str, Any], meta: Mapping[str, Any], accuracy=None
    ) -> None:
        """Saves in the background; the state may be donated as soon as this returns.

        Args:
            state: everything that training changes.
            progress: JSON of the loop: what it needs to go on as if nothing had happened.
            meta: JSON that says what the state belongs to.
            accuracy: by which the best checkpoint is chosen; None if it was not evaluated.
        """
        step = int(state.step)
        arrays = {name: ocp.args.StandardSave(tree) for name, tree in _items(state).items()}
        saved = self._manager.save(
            step,
            args=ocp.args.Composite(
                **arrays,
                progress=ocp.args.JsonSave(dict(progress)),
                meta=ocp.args.JsonSave(dict(meta)),
            ),
            metrics={"accuracy": WORST if accuracy is None else float(accuracy)},
            force=True,
        )
        if not saved:
            raise RuntimeError(f"Orbax did not save step {step} in {self.directory}")

    def wait(self) -> None:
        """Returns when everything that was saved lies on the disk."""
        self._manager.wait_until_finished()

    def read_json(self, step: int, item: str) -> dict[str, Any]:
        """Reads `progress` or `meta`."""
        return self._restore(step, {item: ocp.args.JsonRestore()})[item]

    def restore(self, template: TrainState, sharding: Sharding) -> tuple[TrainState, dict]:
        """Reads the newest checkpoint, on however many devices.

        Args:
            template: shapes and dtypes of the state, as from `jax.eval_shape`.
            sharding: of all arrays.

        Returns:
            The state and the loop's progress.
        """
        items = {
            name: self._arrays(self.latest, name, tree, sharding)
            for name, tree in _items(template).items()
        }
        restored = self._restore(self.latest, items | {"progress": ocp.args.JsonRestore()})
        return _state(template, restored), restored["progress"]

    def restore_network(self, step: int, role: str, template: PyTree, sharding: Sharding) -> PyTree:
        """Reads the variables of one network, and nothing else."""
        item = f"network_{role}"
        return self._restore(step, {item: self._arrays(step, item, template, sharding)})[item]

    def _restore(self, step: int, items: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return dict(self._manager.restore(step, args=ocp.args.Composite(**items)).items())
        except Exception as error:  # Orbax and TensorStore raise what they like on broken files
            raise self._damaged(step, error) from error

    def _damaged(self, step: int, error: Exception) -> UsageError:
        older = [s for s in self._manager.all_steps() if s < step]
        then = f"from step {max(older)}" if older else "from the beginning of this stage"
        reason = (str(error).strip() or repr(error)).splitlines()[0][:200]
        return UsageError(
            f"The checkpoint {self.directory / str(step)} is damaged ({reason}): delete that folder"
            f" to go on {then}."
        )

    def _arrays(self, step: int, item: str, template: PyTree, sharding: Sharding):
        """How to read an item into the shapes of `template`; Orbax would cast and cut silently."""
        handler = ocp.StandardCheckpointHandler()
        try:
            found = _leaves(handler.metadata(self.directory / str(step) / item).tree)
        except (OSError, ValueError) as error:
            raise self._damaged(step, error) from error
        for name, leaf in _leaves(template).items():
            stored = found.get(name)
            if stored is None or (stored.shape, stored.dtype) != (leaf.shape, leaf.dtype):
                has = "nothing" if stored is None else f"{stored.dtype} {tuple(stored.shape)}"
                raise UsageError(
                    f"The checkpoint {self.directory / str(step)} does not fit: {item} has {has} at"
                    f" {name}, but {leaf.dtype} {leaf.shape} is needed; use the configuration it"
                    f" was written with."
                )
        return ocp.args.StandardRestore(
            jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
                template,
            )
        )


def _leaves(tree: PyTree) -> dict[str, Any]:
    """Leaves by path; attributes, keys and list places are written alike, as Orbax stores them."""
    leaves = jax.tree_util.tree_flatten_with_path(
        tree, is_leaf=lambda x: hasattr(x, "shape") and hasattr(x, "dtype")
    )[0]
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
