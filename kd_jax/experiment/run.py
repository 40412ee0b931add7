"""A run: the stages of an experiment in one folder. Each stage runs once, and resumes."""

import contextlib
import copy
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.experimental import multihost_utils

from kd_jax.core.devices import any_process, data_mesh
from kd_jax.core.errors import UsageError
from kd_jax.core.files import PathLike, absolute_path, differences, write_atomically
from kd_jax.core.lock import locked
from kd_jax.core.stop import StopSignal
from kd_jax.data import Loader, ResidentLoader, StreamedLoader
from kd_jax.experiment import report
from kd_jax.experiment.building import to_config
from kd_jax.experiment.config_files import import_modules
from kd_jax.experiment.plan import Plan
from kd_jax.experiment.specs import Experiment, experiment
from kd_jax.experiment.stage_run import StageRun
from kd_jax.pretrained.weights import FINISHED

MAY_CHANGE = (
    ("num_devices",),
    ("checkpoint_minutes",),
    ("imports",),
    ("data", "source", "data_dir"),
    ("data", "source", "path"),
)
"""Config keys that do not change the numbers: they may change while a run is stopped."""


def run(
    config: Mapping[str, Any], workdir: PathLike, *, stages: Sequence[str] | None = None
) -> dict[str, Any]:
    """Runs an experiment, or resumes it.

    Args:
        config: a ConfigDict or plain dictionaries; see `kd_jax train --help` for all keys.
        workdir: folder of the run; it is made if it is missing.
        stages: names of the stages to run. None runs all. Stages that these start from must be
            finished in the same folder.

    Returns:
        The content of `results.json`.

    Raises:
        UsageError: for everything that the user can fix.
        Stopped: after SIGTERM or Ctrl-C, when the state is saved.
    """
    return Run(config, workdir, stages=stages).run()


class Run:
    """One experiment in one working directory.

    Everything that can be wrong with a config is found when the run is made, before any training.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        workdir: PathLike,
        *,
        stages: Sequence[str] | None = None,
    ):
        """Checks the config, reads the images and claims the working directory.

        See `run` for the arguments.
        """
        values = config.to_dict() if hasattr(config, "to_dict") else dict(config)
        import_modules(values)
        self.spec = experiment(values)
        self.config = _json(self.spec)
        self.workdir = absolute_path(workdir)
        self.mesh = data_mesh(self.spec.num_devices)
        self.plan = Plan(self.spec, self.workdir, self.mesh, stages)
        self._claim_workdir()
        self._loaders: dict[str, Loader] = {}

    def run(self) -> dict[str, Any]:
        """Runs every stage that is not finished, and writes the results.

        Returns:
            The content of `results.json`.

        Raises:
            Stopped: after a request to stop, when the state is saved.
            UsageError: if a stage cannot resume, or another process uses the folder.
        """
        if (summary := self._results()) is not None:
            return summary
        with StopSignal() as stop, contextlib.ExitStack() as stack:
            if jax.process_index() == 0:
                stack.enter_context(locked(self.workdir, "--workdir"))
            stack.callback(self._close)
            for name in self.plan.names:
                if not self._finished(name):
                    stage = StageRun(name, self.plan, self.workdir, self._loader)
                    self._write(self.workdir / name / FINISHED, stage.run(stop))
            return self._summarize()

    def _results(self) -> dict[str, Any] | None:
        """Returns the stored results of a finished run, whose folder may be read-only."""
        if not all(self._finished(name) for name in self.plan.names):
            return None
        try:
            found: dict[str, Any] = json.loads((self.workdir / "results.json").read_text())
            whole = [stage["name"] for stage in found["stages"]] == self._all_finished()
        except (OSError, ValueError, KeyError, TypeError):  # missing or damaged: written again
            return None
        return found if whole else None

    def _all_finished(self) -> list[str]:
        return [name for name in self.spec.pipeline if self._finished(name)]

    def _summarize(self) -> dict[str, Any]:
        """Writes and returns the results of all finished stages."""
        results = [
            json.loads((self.workdir / name / FINISHED).read_text())
            for name in self._all_finished()
        ]
        summary = {
            "experiment": self.spec.experiment,
            "seed": self.spec.seed,
            "filter": self.spec.data.filter,
            "config": self.config,
            "versions": results[-1]["versions"],
            "device": results[-1]["device"],
            "stages": results,
        }
        if jax.process_index() == 0:
            report.write(summary, self.workdir)
        self._write(self.workdir / "results.json", summary)  # last: the run is then complete
        return summary

    def _close(self) -> None:
        for loader in self._loaders.values():
            loader.close()

    def _finished(self, name: str) -> bool:
        return any(any_process((self.workdir / name / FINISHED).exists()))

    def _write(self, path, values: Mapping[str, Any]) -> None:
        """Writes JSON that all processes agree on, in one of them."""
        if jax.process_index() == 0:
            write_atomically(path, json.dumps(values, indent=2) + "\n")
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(str(path))

    def _claim_workdir(self) -> None:
        path = self.workdir / "config.json"
        try:
            self.workdir.mkdir(parents=True, exist_ok=True)
            if not any(any_process(path.exists())):
                self._write(path, self.config)
            before = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise UsageError(
                f"--workdir={self.workdir} cannot be used ({error}): choose a folder that can be"
                " written."
            ) from error
        with contextlib.suppress(UsageError):  # keys of another version are shown as differences
            before = _json(experiment(before))  # options that are newer than the run
        if changes := differences(_fixed(before), _fixed(self.config)):
            raise UsageError(
                f"--workdir={self.workdir} holds a run with another config: {'; '.join(changes)};"
                " restore these values, or choose a new --workdir."
            )

    def _loader(self, split: str) -> Loader:
        """Returns the loader of a split; a set is put on the devices once."""
        if split not in self._loaders:
            if split not in self.plan.images:
                raise UsageError(
                    f"There is no split {split!r}: set data.test_split or data.validation_fraction,"
                    f" or evaluate one of {', '.join(self.plan.images)}."
                )
            streamed = split != "test" and self.spec.data.stream
            make: Callable[..., Loader] = StreamedLoader if streamed else ResidentLoader
            self._loaders[split] = make(self.plan.images[split], self.mesh)
        return self._loaders[split]


def _json(spec: Experiment) -> dict[str, Any]:
    """Returns the whole configuration, defaults included, as JSON has it."""
    config = to_config(spec)
    try:
        return json.loads(json.dumps(config))
    except TypeError as error:
        raise UsageError(f"The config holds more than plain values: {error}.") from error


def _fixed(config: dict[str, Any]) -> dict[str, Any]:
    """Returns a copy of a config without the keys of `MAY_CHANGE`."""
    config = copy.deepcopy(dict(config))
    for *path, last in MAY_CHANGE:
        values = config
        for key in path:
            values = values.get(key, {})
        values.pop(last, None)
    return config
