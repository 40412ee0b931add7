"""The plan of a run in words: its stages, before the first step."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from etils import epath

from kd_jax.core.text import markdown
from kd_jax.experiment.plan import Plan
from kd_jax.experiment.work import stage_work


def overview(plan: Plan, workdir: epath.Path, finished: Sequence[str]) -> str:
    """Returns the lines that describe a run: its images, and a table of its stages.

    Args:
        plan: the plan of the run.
        workdir: folder of the run.
        finished: names of the finished stages.
    """
    data, train = plan.spec.data, plan.images["train"]
    shape = "x".join(map(str, train.image_shape))
    sizes = ", ".join(f"{len(images):,} {split}" for split, images in plan.images.items())
    device = plan.mesh.devices.flat[0]
    rows = [_row(plan, workdir, name, finished) for name in plan.names]
    columns = ("stage", "trains", "frozen", "method", "epochs", "steps", "state")
    return (
        f"{plan.spec.experiment}: {len(plan.names)} stages on {plan.mesh.size} x"
        f" {device.device_kind} ({device.platform}); images of {shape}: {sizes}; batches of"
        f" {data.batch_size}\n{markdown(columns, rows, left=4)}"
    )


def _row(plan: Plan, workdir: epath.Path, name: str, finished: Sequence[str]) -> tuple[str, ...]:
    spec, stage = plan.spec.stages[name], plan.stages[name]
    return (
        name,
        ", ".join(_network(plan, name, role, params=True) for role in stage.trained),
        ", ".join(_network(plan, name, role) for role in stage.frozen) or "-",
        type(spec.method).__name__,
        f"{spec.epochs:g}",
        f"{plan.steps(name):,}",
        "finished" if name in finished else _state(plan, workdir, name),
    )


def _network(plan: Plan, name: str, role: str, params: bool = False) -> str:
    """Returns a network in words, as in `resnet8 at 4x4, 77,754 parameters`."""
    info = plan.roles.info(name, role)
    words = f"{info.name} at {info.size[0]}x{info.size[1]}"
    if params:
        leaves = jax.tree.leaves(plan.shapes[name][role].get("params", {}))
        words += f", {sum(leaf.size for leaf in leaves):,} parameters"
    if (source := plan.spec.stages[name].networks[role].init_from) is not None:
        words += f", from {source}"
    return words


def _state(plan: Plan, workdir: epath.Path, name: str) -> str:
    """Returns `to do`, or the step at which an unfinished stage resumes."""
    step = saved_step(workdir / name)
    return "to do" if step is None else f"resumes at step {step:,}"


def saved_step(folder: epath.Path) -> int | None:
    """Returns the newest saved step of a stage, by the names of its checkpoints, or None."""
    checkpoints = folder / "checkpoints"
    names = [path.name for path in checkpoints.iterdir()] if checkpoints.is_dir() else []
    return max((int(name) for name in names if name.isdigit()), default=None)


def later_work(plan: Plan, finished: Sequence[str]) -> Mapping[str, float]:
    """Returns, for each stage to run, the work of the later ones in steps of that stage.

    Args:
        plan: the plan of the run.
        finished: names of the finished stages.
    """
    names = [name for name in plan.names if name not in finished]
    work: dict[str, Any] = {name: stage_work(plan, name) for name in names}
    later = {}
    for i, name in enumerate(names):
        per_step = work[name] / plan.steps(name)
        later[name] = sum(work[n] for n in names[i + 1 :]) / per_step if per_step else 0.0
    return later
