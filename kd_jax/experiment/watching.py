"""The watch over a running stage: its hooks, and messages on what is compiled."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
from etils import epath

from kd_jax.core.errors import UsageError
from kd_jax.core.user_code import raised
from kd_jax.data import Loader
from kd_jax.experiment.building import to_config
from kd_jax.experiment.plan import Plan
from kd_jax.experiment.plan_checks import with_key
from kd_jax.experiment.stage_metrics import StageMetrics
from kd_jax.training import TrainState
from kd_jax.training.execution import RunSteps
from kd_jax.training.hooks import Hook, HookContext, Sink
from kd_jax.training.log import ProgressLine
from kd_jax.training.norms import norm_program
from kd_jax.training.pictures import first_images
from kd_jax.training.watch import Watch, norm_steps

_IMAGES = 64
"""Greatest number of images that are made for hooks."""


def open_watch(
    plan: Plan, name: str, folder: epath.Path, loader: Loader, line: ProgressLine, step: int
) -> Watch | None:
    """Opens the hooks of a stage, in the first process only.

    Args:
        plan: the plan of the run.
        name: name of the stage.
        folder: folder of the stage.
        loader: the training set.
        line: progress on the terminal.
        step: number of steps that are done.

    Returns:
        The watch over the stage, or None if the config has no hooks.

    Raises:
        UsageError: if a hook cannot be opened.
    """
    hooks = plan.spec.hooks
    if not hooks:
        return None
    context = HookContext(plan.spec.experiment, name, folder, step, to_config(plan.spec))
    opened = {}
    if jax.process_index() == 0:
        opened = {word: (hook, _open(word, hook, context)) for word, hook in hooks.items()}
    spec, stage = plan.spec.stages[name], plan.stages[name]
    norms = None
    if every := norm_steps([*hooks.values()]):
        # In the global view: the networks of `pmap` have their axis only inside it.
        networks = {role: plan.roles.info(name, role).module() for role in stage.networks}
        norms = norm_program(dataclasses.replace(stage, networks=networks), plan.mesh), every
    lengths = plan.steps(name), plan.order.steps_per_epoch
    rates = {
        group: spec.optimizers.get(group, spec.optimizers["default"]).rate(*lengths)
        for group in spec.groups
        if group != "default"
    }
    watch = Watch(opened, line, rates, step, norms)
    if step == 0:
        images = first_images({name: stage}, loader, plan.order, plan.mesh, _IMAGES)
        watch.images({role.rpartition("/")[2]: pixels for role, pixels in images.items()})
    return watch


def _open(word: str, hook: Hook, context: HookContext) -> Sink:
    try:
        return hook.open(context)
    except UsageError as error:
        raise UsageError(with_key(f"hooks.{word}", error)) from error
    except Exception as error:  # a user's hook, or a service, raises whatever it likes
        raise UsageError(
            f"hooks.{word} cannot be opened ({raised(error)}): check its options, or leave it out."
        ) from error


def say_place(plan: Plan, name: str, line: ProgressLine) -> None:
    """Prints the place of a stage in the run, as in `stage 2 of 5`."""
    line.say(f"stage {plan.names.index(name) + 1} of {len(plan.names)}")


def check_hooks(hooks: Mapping[str, Any]) -> None:
    """Raises `UsageError` for a hook that lacks a package; see `Hook.check`."""
    for word, hook in hooks.items():
        try:
            hook.check()
        except UsageError as error:
            raise UsageError(with_key(f"hooks.{word}", error)) from error


def evaluation(
    metrics: StageMetrics, frozen: Mapping[str, Any], line: ProgressLine
) -> Callable[[TrainState], dict[str, float]]:
    """Returns the evaluation of a state, whose time is not that of training."""
    first = True

    def evaluate(state: TrainState) -> dict[str, float]:
        nonlocal first
        line.pause()
        if first:
            line.say("compiling the evaluation ...")
        first = False
        return metrics(state.averaged, frozen)

    return evaluate


def announced(run_steps: RunSteps, line: ProgressLine) -> RunSteps:
    """Returns a function that prints that the first call compiles; later calls are training."""
    first = True

    def run(*args: Any) -> Any:
        nonlocal first
        if first:
            line.say("compiling the train step ...")
        else:
            line.begin()
        first = False
        return run_steps(*args)

    return run
