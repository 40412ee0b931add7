"""Checkpoints on disk: the one module that knows Orbax."""

import contextlib
import logging
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Sharding
from orbax.checkpoint import checkpoint_managers as policies

from kd_jax.core.errors import UsageError, reason
from kd_jax.core.files import PathLike, absolute_path, read_json
from kd_jax.core.hashing import content_hash, json_hash
from kd_jax.data.local_files import is_count
from kd_jax.training.items import from_items, to_items
from kd_jax.training.peers import lost_process
from kd_jax.training.state import TrainState

PyTree = Any
WORST = -sys.float_info.max
"""Score of a checkpoint that was not evaluated.

It is finite, because one NaN makes Orbax delete the best checkpoint."""
_HASHES = "hashes"
"""Item with the content hash of every other item. Orbax guards its index, but not the values."""


def _score(metrics: Mapping[str, float]) -> float:
    return metrics.get("score", metrics.get("accuracy", WORST))  # "accuracy" in version 0.1


class Checkpoints:
    """The checkpoints of one stage: the latest two and the best are kept, each written atomically.

    Use it as a context manager: it saves in the background, and waits for that on exit.
    """

    def __init__(self, directory: PathLike, *, read_only: bool = False):
        """Opens a folder of checkpoints, or makes it.

        Args:
            directory: the folder.
            read_only: change nothing in the folder, which is that of a finished stage.
        """
        self.directory, self._finished = absolute_path(directory), read_only
        keep = [policies.LatestN(2), policies.BestN(get_metric_fn=_score, n=1)]
        try:
            with _quiet():
                options = ocp.CheckpointManagerOptions(
                    preservation_policy=policies.AnyPreservationPolicy(keep),
                    best_fn=_score,
                    read_only=read_only,
                )
                self._manager = ocp.CheckpointManager(self.directory, options=options)
        except Exception as error:  # broken files raise any exception
            raise self._unreadable(_reason(error)) from error

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if error is None:
            with self._writing():
                self._manager.close()
        else:  # errors of closing would hide the first one
            with contextlib.suppress(Exception):
                self._manager.close()

    @property
    def latest(self) -> int | None:
        """Returns the step of the newest checkpoint; None if there is none."""
        return self._manager.latest_step()

    @property
    def best(self) -> int | None:
        """Returns the step of the checkpoint with the greatest score; None if there is none."""
        return self._manager.best_step()

    def save(
        self, state: TrainState, progress: Mapping[str, Any], meta: Mapping[str, Any], score=None
    ) -> None:
        """Saves in the background; the state may be donated as soon as this returns.

        Args:
            state: everything that training changes.
            progress: the state of the loop, as JSON.
            meta: the conditions under which the state is valid, as JSON.
            score: number that chooses the best checkpoint, the greatest; None if the state was not
                evaluated.

        Raises:
            UsageError: if this or an earlier checkpoint cannot be written.
        """
        step, items = int(state.step), to_items(state)
        arrays = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
        texts = {"progress": dict(progress), "meta": dict(meta)}
        hashes = {name: content_hash(tree) for name, tree in items.items()}
        hashes |= {name: json_hash(value) for name, value in texts.items()}
        arguments = ocp.args.Composite(
            **arrays,
            **{name: ocp.args.JsonSave(value) for name, value in texts.items()},
            **{_HASHES: ocp.args.JsonSave(hashes)},
        )
        metrics = {"score": WORST if score is None else float(score)}
        with self._writing():
            saved = self._manager.save(step, args=arguments, metrics=metrics, force=True)
        if not saved:
            raise RuntimeError(f"Orbax did not save step {step} in {self.directory}")

    def wait(self) -> None:
        """Waits until everything that was saved is on the disk.

        Raises:
            UsageError: if a checkpoint cannot be written.
        """
        with self._writing():
            self._manager.wait_until_finished()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns the errors of full disks, of limits and of lost processes into one sentence."""
        try:
            yield
        except Exception as error:  # Orbax and TensorStore raise any exception
            if lost := lost_process(error):
                raise lost from error
            raise UsageError(
                f"A checkpoint cannot be written to {self.directory} ({_reason(error)}): free space"
                " or raise the limit, and run the same command again; it resumes."
            ) from error

    def read_json(self, step: int, item: str) -> dict[str, Any]:
        """Reads `progress` or `meta`."""
        return self._restore(step, {item: ocp.args.JsonRestore()})[item]

    def restore(self, template: TrainState, sharding: Sharding) -> tuple[TrainState, dict]:
        """Reads the newest checkpoint, on however many devices.

        Args:
            template: shapes and dtypes of the state, as from `jax.eval_shape`.
            sharding: sharding of all arrays.

        Returns:
            The state, and the progress of the loop.
        """
        step = self.latest
        if step is None:
            raise UsageError(f"There is no checkpoint in {self.directory}: train the stage first.")
        items = {
            name: self._arrays(step, name, tree, sharding)
            for name, tree in to_items(template).items()
        }
        restored = self._restore(step, items | {"progress": ocp.args.JsonRestore()})
        return from_items(template, restored), restored["progress"]

    def restore_network(self, step: int, role: str, template: PyTree, sharding: Sharding) -> PyTree:
        """Reads the variables of one network only."""
        item = f"network_{role}"
        return self._restore(step, {item: self._arrays(step, item, template, sharding)})[item]

    def restore_stored(self, step: int, item: str, sharding: Sharding) -> PyTree:
        """Reads an item in the shapes that it was stored with; an empty one is `{}`."""
        if not (self.directory / str(step) / item).exists():
            return {}
        template = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            self._stored(step, item),
            is_leaf=_is_array,
        )
        return self._restore(step, {item: ocp.args.StandardRestore(template)})[item]

    def _stored(self, step: int, item: str) -> PyTree:
        """Returns the tree of an item, with shape and dtype of every array."""
        try:
            return ocp.StandardCheckpointHandler().metadata(self.directory / str(step) / item).tree
        except Exception as error:  # broken files raise any exception
            raise self._damaged(step, _reason(error)) from error

    def _restore(self, step: int, items: Mapping[str, Any]) -> dict[str, Any]:
        """Reads items and compares their content hashes."""
        guarded = (self.directory / str(step) / _HASHES).exists()  # not in version 0.1
        asked = {**items, **({_HASHES: ocp.args.JsonRestore()} if guarded else {})}
        try:
            with _quiet():
                found = dict(self._manager.restore(step, args=ocp.args.Composite(**asked)).items())
            hashes = found.pop(_HASHES, {})
            for name in items if guarded else ():
                text = isinstance(items[name], ocp.args.JsonRestore)
                if hashes[name] != (json_hash if text else content_hash)(found[name]):
                    raise ValueError(f"the stored values of {name} have changed")
        except Exception as error:  # Orbax and TensorStore raise any exception on broken files
            raise self._damaged(step, _reason(error)) from error
        return found

    def _unreadable(self, reason: str) -> UsageError:
        """Returns the error for a folder that cannot be opened, such as for a damaged score."""
        for step in sorted(_steps(self.directory), reverse=True):
            try:
                read_json(self.directory / str(step) / "metrics" / "metrics")
            except (OSError, ValueError) as error:
                return self._damaged(step, _reason(error))
        remedy = self._train_again() if self._finished else "delete it to train the stage again"
        return UsageError(f"{self.directory} cannot be read ({reason}): {remedy}.")

    def _damaged(self, step: int, reason: str) -> UsageError:
        others = _steps(self.directory) - {step}
        then = f"from step {max(others)}" if others else "from the beginning of this stage"
        remedy = self._train_again() if self._finished else f"delete that folder to resume {then}"
        return UsageError(
            f"The checkpoint {self.directory / str(step)} is damaged ({reason}): {remedy}."
        )

    def _train_again(self) -> str:
        """Returns the remedy for a finished stage: its last step is part of other results."""
        return f"delete {self.directory.parent} and train or import that stage again"

    def _arrays(
        self, step: int, item: str, template: PyTree, sharding: Sharding
    ) -> ocp.args.StandardRestore:
        """Returns the request that reads an item into the shapes of `template`.

        Shapes and dtypes are compared first, because Orbax would cast and cut silently.
        """
        found = _leaves(self._stored(step, item))
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
    """Returns leaves by path; attributes, keys and list positions look the same, as in Orbax."""
    leaves = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_array)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences Orbax's warnings: a folder for reading only, and files that cannot be parsed."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(max(level, logging.ERROR))  # commands have silenced all of it
    try:
        yield
    finally:
        logger.setLevel(level)


def _steps(folder: epath.Path) -> set[int]:
    """Returns the steps that have a folder."""
    return {int(path.name) for path in folder.glob("*") if is_count(path.name)}


def _reason(error: Exception) -> str:
    """Returns the reason of an error, without TensorStore's details."""
    return reason(error).partition(". See full")[0].partition(" [")[0]


def _is_array(x: Any) -> bool:
    return hasattr(x, "shape") and hasattr(x, "dtype")
