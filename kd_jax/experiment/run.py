"""A run: the stages of an experiment in one folder. Each stage runs once, and resumes."""

import contextlib
import copy
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from kd_jax.core.devices import any_process, data_mesh
from kd_jax.core.errors import UsageError, reason
from kd_jax.core.files import (
    PathLike,
    absolute_path,
    differences,
    output_folder,
    read_json,
    write_file,
)
from kd_jax.core.lock import locked
from kd_jax.core.stop import Stopped, StopSignal
from kd_jax.data import Loader, ResidentLoader, StreamedLoader
from kd_jax.experiment import report, stored
from kd_jax.experiment.building import to_config
from kd_jax.experiment.config_files import import_modules
from kd_jax.experiment.overview import later_work, overview
from kd_jax.experiment.plan import Plan
from kd_jax.experiment.plan_checks import with_key
from kd_jax.experiment.report_html import run_page
from kd_jax.experiment.specs import Experiment, experiment
from kd_jax.experiment.stage_run import StageRun
from kd_jax.experiment.watching import check_hooks
from kd_jax.pretrained.info import RECORDED
from kd_jax.pretrained.weights import FINISHED
from kd_jax.training.pictures import first_images

_SHOWN_IMAGES = 8
"""Number of images that the report shows."""
MAY_CHANGE = (
    ("num_devices",),
    ("checkpoint_minutes",),
    ("imports",),
    ("hooks",),
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
        values = _plain(config)
        import_modules(values)
        self.spec = experiment(values)
        self.config = _json(self.spec)
        self.workdir = absolute_path(workdir, "--workdir")
        self.mesh = data_mesh(self.spec.num_devices)
        self.plan = Plan(self.spec, self.workdir, self.mesh, stages)
        self._check_files()
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
        summary = self._summary()
        if (stored := self._stored_results(summary)) is not None:
            return stored
        with StopSignal() as stop, contextlib.ExitStack() as stack:
            if jax.process_index() == 0:
                stack.enter_context(locked(self.workdir, "--workdir"))
            stack.callback(self._close)
            finished = [name for name in self.plan.names if self._finished(name)]
            later = self._announce(finished)
            for name in self.plan.names:
                if self._finished(name):
                    continue
                # One of several processes never ends alone: the others would wait for it.
                stop.unsaved = jax.process_count() > 1
                if any(any_process(stop.requested)):
                    raise Stopped(f"stage {name!r} is next", stop.number)
                stage = StageRun(name, self.plan, self.workdir, self._loader, later.get(name, 0.0))
                self._write(self.workdir / name / FINISHED, stage.run(stop))
            stop.unsaved = False
            summary = self._summary()
            images = self._first_images()
            if jax.process_index() == 0:
                report.write(summary, self.workdir)
                run_page.write(summary, self.workdir, images)
            self._write(self.workdir / "results.json", summary)  # last: the run is then complete
            return summary

    def _stored_results(self, summary: Mapping[str, Any]) -> dict[str, Any] | None:
        """Returns the stored results of a finished run, whose folder may be read-only.

        Args:
            summary: results that the files of the stages give.
        """
        if not all(self._finished(name) for name in self.plan.names):
            return None
        try:
            found = read_json(self.workdir / "results.json")
            configs = [fixed(self.config), fixed(self._before)]
            whole = fixed(found["config"]) in configs and all(
                found[key] == value for key, value in summary.items() if key != "config"
            )
        except (OSError, ValueError, KeyError):  # missing or damaged: written again
            return None
        return found if whole else None

    def _summary(self) -> dict[str, Any]:
        """Returns the results of all finished stages.

        Raises:
            UsageError: if a file of a finished stage is damaged.
        """
        folders = [self.workdir / name for name in self.spec.pipeline if self._finished(name)]
        results = [stored.stored_stage(folder) for folder in folders]
        for folder in folders:
            stored.curve(folder)  # damage is found before the other stages are trained
            stored.confusion(folder)
        return {
            "experiment": self.spec.experiment,
            "seed": self.spec.seed,
            "filter": self.spec.data.filter,
            "config": self.config,
            "versions": results[-1]["versions"] if results else {},
            "device": results[-1]["device"] if results else {},
            "stages": results,
        }

    def _announce(self, finished: Sequence[str]) -> Mapping[str, float]:
        """Prints the plan of the run; returns the later work for each stage to run."""
        if jax.process_index() == 0:
            print(overview(self.plan, self.workdir, finished), file=sys.stderr, flush=True)
        return later_work(self.plan, finished)

    def _first_images(self) -> dict[str, np.ndarray]:
        """Returns the first training images as the networks of the stages see them."""
        stages = {name: self.plan.stages[name] for name in self.plan.names}
        loader = self._loader("train")
        return first_images(stages, loader, self.plan.order, self.mesh, _SHOWN_IMAGES)

    def _close(self) -> None:
        for loader in self._loaders.values():
            loader.close()

    def _finished(self, name: str) -> bool:
        return any(any_process((self.workdir / name / FINISHED).exists()))

    def _write(self, path, values: Mapping[str, Any]) -> None:
        """Writes JSON that all processes agree on, in one of them."""
        if jax.process_index() == 0:
            write_file(path, json.dumps(values, indent=2) + "\n")
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(str(path))

    def _claim_workdir(self) -> None:
        path = self.workdir / "config.json"
        with contextlib.ExitStack() as stack:
            if not any(any_process(path.exists())) and jax.process_index() == 0:
                output_folder(self.workdir, "--workdir").mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(self.workdir, "--workdir"))
            if not any(any_process(path.exists())):  # another run may have written it just now
                self._write(path, self.config)
        try:
            before = self._before = read_json(path)
        except (OSError, ValueError) as error:
            raise UsageError(
                f"--workdir={self.workdir} has a damaged config.json ({reason(error)}): restore it,"
                " or choose a new --workdir."
            ) from error
        with contextlib.suppress(UsageError):  # keys of another version are shown as differences
            before = _json(experiment(before))  # options that are newer than the run
        if changes := differences(fixed(before), fixed(self.config)):
            raise UsageError(
                f"--workdir={self.workdir} holds a run with another config: {'; '.join(changes)};"
                " restore these values, or choose a new --workdir."
            )

    def _check_files(self) -> None:
        """Raises `UsageError` for files that an unfinished stage cannot use.

        Otherwise they would be found when their stage starts, which can be hours later. A hook
        that lacks a package is found too.
        """
        if not all(self._finished(name) for name in self.plan.names):
            check_hooks(self.spec.hooks)
        for name in self.plan.names:
            if self._finished(name):
                continue
            for role, network in self.spec.stages[name].networks.items():
                if network.name == RECORDED:
                    outputs = self.plan.roles.recorded(name, role)
                    key, images = f"stages.{name}.networks.{role}.path", self.plan.images["train"]
                    outputs.check_labels(outputs.select(images.names, key), images.labels, key)
            for word, evaluator in self.spec.stages[name].evaluators.items():
                try:
                    evaluator.check_files()
                except UsageError as error:
                    raise UsageError(with_key(f"stages.{name}.evaluators.{word}", error)) from error

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
            loader = make(self.plan.images[split], self.mesh)
            if loader.images and loader.images.mesh and self.spec.execution == "pmap":
                raise UsageError(
                    f"The images of {split} do not fit a single device, which execution = 'pmap'"
                    " needs: set execution = 'jit', or data.stream = True."
                )
            self._loaders[split] = loader
        return self._loaders[split]


def _plain(values: Any) -> Any:
    """Returns a config as plain dictionaries, also where only parts of it are ConfigDicts."""
    if hasattr(values, "to_dict"):
        return values.to_dict()
    if isinstance(values, Mapping):
        return {name: _plain(value) for name, value in values.items()}
    return values


def _json(spec: Experiment) -> dict[str, Any]:
    """Returns the whole configuration, defaults included, as JSON has it."""
    config = to_config(spec)
    try:
        return json.loads(json.dumps(config))
    except TypeError as error:
        raise UsageError(f"The config holds more than plain values: {error}.") from error


def fixed(config: dict[str, Any]) -> dict[str, Any]:
    """Returns a copy of a config without the keys of `MAY_CHANGE`."""
    config = copy.deepcopy(config)
    for *path, last in MAY_CHANGE:
        values: Any = config
        for key in path:
            values = values.get(key) if isinstance(values, dict) else None
        if isinstance(values, dict):
            values.pop(last, None)
    return config
