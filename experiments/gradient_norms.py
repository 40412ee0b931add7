r"""Norms of the gradients of the terms of a loss during training: which terms teach at all.

    python experiments/gradient_norms.py --workdir=runs/norms --stage=horkd \
        --config=horkd/cifar10:teacher=runs/resnet20,npz=cifar10_{split}.npz

The stage is trained as `kd-jax train` trains it. Every `--every` steps, the gradient of each term
times its weight is computed on the next batch, with respect to the parameters of all trained
networks, with all other weights set to 0. The table has the norms, as means over each quarter of
the training, and the cosine with the gradient of the whole loss. A term whose norm is a thousandth
of the others' is switched off by its scale; one whose norm is a hundred times that of the
cross-entropy leaves nothing for the labels. `norms.json` has every measurement, `norms.png` draws
them.

A stage that starts from another stage of the config needs the folder of the run that has finished
that stage: `--run=FOLDER`.
"""

import argparse
import dataclasses
import io
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax

from kd_jax.commands import Parser, exit_code
from kd_jax.core.devices import data_mesh
from kd_jax.core.files import absolute_path, write_atomically
from kd_jax.core.text import markdown
from kd_jax.data import Loader, ResidentLoader, StreamedLoader
from kd_jax.experiment import tables
from kd_jax.experiment.config_files import load_config
from kd_jax.experiment.plan import Plan
from kd_jax.experiment.specs import experiment
from kd_jax.experiment.stage_run import StageRun
from kd_jax.methods import Method
from kd_jax.methods.base import is_used
from kd_jax.training import Stage, TrainState
from kd_jax.training.execution import jit_steps

EXAMPLE = "python experiments/gradient_norms.py --workdir=runs/norms --config=quickstart"
TOTAL = "whole loss"
Gradients = Callable[[TrainState, Mapping[str, Any], Any, Any], dict[str, Any]]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return exit_code(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> None:
    parser = Parser(__doc__ or "", EXAMPLE)
    parser.add_argument("--workdir", help="folder of table.md, norms.json and norms.png")
    parser.add_argument("--config", default="quickstart", help="config (default: %(default)s)")
    parser.add_argument("--stage", default="assistant", help="stage (default: %(default)s)")
    parser.add_argument("--run", help="folder of a run that has finished the earlier stages")
    parser.add_argument("--every", type=int, default=100, help="steps between measurements")
    parser.add_argument("--steps", type=int, help="number of steps (default: those of the stage)")
    parser.add_argument("--seed", type=int, default=0, help="seed (default: %(default)s)")
    args = parser.parse(argv)
    parser.require(args, "workdir")
    measured = measure(args)
    text = table(measured)
    workdir = absolute_path(args.workdir)
    tables.write(text, workdir)
    write_atomically(workdir / "norms.json", json.dumps(measured, indent=1) + "\n")
    write_atomically(workdir / "norms.png", draw(measured))
    print(f"{text}\n\n{workdir / 'norms.png'}")


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Trains the stage and returns one entry per measurement: `step`, `norm` and `cosine`."""
    config = load_config(args.config).to_dict() | {"seed": args.seed, "num_devices": 1}
    spec, mesh = experiment(config), data_mesh(1)
    folder = absolute_path(args.run or args.workdir)
    plan = Plan(spec, folder, mesh, (args.stage,))
    stage = plan.stages[args.stage]
    make: Callable[..., Loader] = StreamedLoader if spec.data.stream else ResidentLoader
    loader = make(plan.images["train"], mesh)
    state, frozen = StageRun(args.stage, plan, folder, lambda split: loader).begin()
    run_steps, gradients = jit_steps(stage, mesh), _gradients(stage, mesh)
    measured = []
    for step in range(args.steps or plan.steps(args.stage)):
        rows = loader.steps(plan.order, step, 1)
        if step % args.every == 0:
            found = gradients(state, frozen, loader.images, rows)
            measured.append({"step": step, **_compare(found)})
        state, _ = run_steps(state, frozen, loader.images, rows)
    return measured


def single_terms(method: Method) -> dict[str, Method]:
    """Returns the method with one of its weights, by the name of the term; the others are 0."""
    weights = {
        field.name: getattr(method, field.name)
        for field in dataclasses.fields(method)  # type: ignore[arg-type]  # a dataclass
        if field.name.endswith("_weight") and is_used(getattr(method, field.name))
    }
    return {
        name.removesuffix("_weight"): dataclasses.replace(
            method, **{other: 0.0 for other in weights if other != name}
        )
        for name in weights
    }


def _gradients(stage: Stage, mesh: Any) -> Gradients:
    """Returns a function that computes the gradient of every term, and of the whole loss."""
    plain = optax.sgd(1.0)  # the change of the parameters is the gradient, with the other sign
    programs = {
        name: jit_steps(dataclasses.replace(stage, method=method, optimizer=plain), mesh)
        for name, method in {**single_terms(stage.method), TOTAL: stage.method}.items()
    }

    def compute(state, frozen, images, rows):
        first = dataclasses.replace(state, opt_state=plain.init(state.params))
        found = {}
        for name, run_steps in programs.items():
            after, _ = run_steps(first, frozen, images, rows)
            change = jax.tree.map(lambda a, b: np.ravel(a - b), state.params, after.params)
            found[name] = np.concatenate(jax.tree.leaves(change)).astype(np.float64)
        return found

    return compute


def _compare(gradients: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    whole = gradients[TOTAL]
    norms = {name: float(np.linalg.norm(gradient)) for name, gradient in gradients.items()}
    cosines = {
        name: float(gradient @ whole / max(norms[name] * norms[TOTAL], 1e-300))
        for name, gradient in gradients.items()
    }
    return {"norm": norms, "cosine": cosines}


def table(measured: Sequence[Mapping[str, Any]]) -> str:
    """Returns the norms of each quarter of the training as a Markdown table."""
    quarters = [part for part in np.array_split(np.arange(len(measured)), 4) if len(part)]
    columns = [f"steps {measured[q[0]]['step']}-{measured[q[-1]]['step']}" for q in quarters]
    rows = []
    for name in measured[0]["norm"]:
        norms = [np.mean([measured[i]["norm"][name] for i in quarter]) for quarter in quarters]
        cosine = np.mean([entry["cosine"][name] for entry in measured])
        rows.append([name, *(f"{norm:.3g}" for norm in norms), f"{cosine:+.2f}"])
    return (
        f"{markdown(('term', *columns, 'cosine'), rows)}\n\n"
        "Norm of the gradient of each term times its weight, mean over the measurements in these"
        " steps; mean cosine of the angle with the gradient of the whole loss."
    )


def draw(measured: Sequence[Mapping[str, Any]]) -> bytes:
    """Returns a PNG of the norms over the steps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    steps = [entry["step"] for entry in measured]
    for name in measured[0]["norm"]:
        axes.plot(steps, [entry["norm"][name] for entry in measured], label=name)
    axes.set(xlabel="step", ylabel="norm of the weighted gradient", yscale="log")
    axes.legend()
    axes.grid(alpha=0.3)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return file.getvalue()


if __name__ == "__main__":
    sys.exit(main())
