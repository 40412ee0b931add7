"""The metrics of a stage: the results of all its evaluators in one flat dictionary."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from kd_jax.data import ImageSet, StoredImages, has_new_classes
from kd_jax.data.loaders import Loader
from kd_jax.evaluation import EVALUATORS, EvaluationContext, Evaluator
from kd_jax.evaluation.base import Metrics
from kd_jax.experiment.specs import DataSpec, StageSpec
from kd_jax.methods import Adapters
from kd_jax.models import Outputs
from kd_jax.training import Stage, TrainState

PyTree = Any
Images = Mapping[str, ImageSet | StoredImages]
"""Images by split."""
VALIDATION = "validation"


class StageMetrics:
    """Evaluates the outputs of a stage by all its evaluators.

    The metrics of the test images have no prefix, those of other evaluators have their name as a
    prefix: `accuracy`, `validation/accuracy`. The first output of `Method.predict` has no suffix,
    the others have their name: `accuracy/teacher`. `accuracy_gap/teacher` is the accuracy of the
    teacher minus that of the first output.

    Attributes:
        result: metric that describes the stage in tables: the accuracy on the test images. Without
            it, it is that on the validation images, or the headline of the first of the stage's
            evaluators. If the test classes are not trained on, that headline comes first.
        best: metric that chooses the best checkpoint.
    """

    def __init__(
        self,
        stage: Stage,
        spec: StageSpec,
        data: DataSpec,
        loader: Callable[[str], Loader],
        mesh: Mesh,
        images: Images,
    ):
        """Builds the evaluators.

        Args:
            stage: the stage.
            spec: its specification, with further evaluators.
            data: the specification of the images.
            loader: returns the images of a split.
            mesh: devices over which a batch is split.
            images: the images by split.
        """
        self._stage, self._main = stage, stage.method.predictions[0]
        evaluators = own_evaluators(data, images)
        every = {**evaluators, **spec.evaluators}
        first = next(iter({**spec.evaluators, **every} if tests_new_classes(images) else every))
        self.result = f"{prefix(first)}{every[first].headline}"
        chosen = VALIDATION if data.validation_fraction else first
        if tests_new_classes(images):  # whose losses may train no classifier
            on = {name: getattr(each, "split", None) for name, each in spec.evaluators.items()}
            chosen = next((name for name in on if on[name] == VALIDATION), chosen)
        self.best = spec.best or f"{prefix(chosen)}{every[chosen].headline}"
        context = functools.partial(
            EvaluationContext,
            loader=loader,
            batch_size=data.eval_batch_size,
            mesh=mesh,
            image_shape=images["train"].image_shape,
        )
        trained = context(
            names=stage.method.predictions,
            predict=self._trained_outputs,
            networks=comparable_networks(stage),
            outputs=lambda variables, images: stage.outputs(variables["networks"], images),
        )
        self._trained = {name: evaluator.build(trained) for name, evaluator in every.items()}
        # The accuracies of frozen networks are for comparison only.
        names = tuple(role for role in stage.frozen if role not in stage.recorded)
        frozen = context(names=names, predict=self._frozen_outputs)
        self._frozen = {
            name: evaluator.build(frozen) for name, evaluator in evaluators.items() if names
        }
        self._frozen_metrics: dict[str, Metrics] | None = None

    def __call__(self, state: TrainState, frozen: Mapping[str, PyTree]) -> dict[str, float]:
        """Returns the metrics of a state; frozen networks are evaluated once."""
        if self._frozen_metrics is None:  # a frozen network does not change
            self._frozen_metrics = {
                name: evaluate(frozen) for name, evaluate in self._frozen.items()
            }
        trained = {role: state.variables(role) for role in self._stage.trained}
        variables = {"networks": {**frozen, **trained}, "adapters": state.adapters}
        found: dict[str, float] = {}
        for name, evaluate in self._trained.items():
            results = {**self._frozen_metrics.get(name, {}), **evaluate(variables)}
            found |= _flat(prefix(name), results, self._main)
        return found

    def _trained_outputs(self, variables: PyTree, images: jax.Array) -> dict[str, Outputs]:
        adapters: Adapters = variables["adapters"]
        return self._stage.predict(variables["networks"], adapters, images)

    def _frozen_outputs(self, frozen: PyTree, images: jax.Array) -> dict[str, Outputs]:
        return self._stage.outputs(frozen, images)


def comparable_networks(stage: Stage) -> tuple[str, ...]:
    """Returns the networks of a stage that can embed any image: the frozen ones too."""
    return tuple(role for role in stage.networks if role not in stage.recorded)


def tests_new_classes(images: Images) -> bool:
    """Returns whether there are test images, and no test class is a training class."""
    return "test" in images and has_new_classes(images["test"], images["train"])


def own_evaluators(data: DataSpec, images: Images) -> dict[str, Evaluator]:
    """Returns the evaluators that every stage has, by name; that of the test images has none.

    Args:
        data: the specification of the images.
        images: the images by split. Test images of other classes than the training images have no
            accuracy.
    """
    classification: Any = EVALUATORS.get("classification")
    evaluators: dict[str, Evaluator] = {}
    if data.test_split is not None and not tests_new_classes(images):
        evaluators[""] = classification(split="test")
    if data.validation_fraction:
        evaluators[VALIDATION] = classification(split=VALIDATION)
    return evaluators


def prefix(evaluator: str) -> str:
    """Returns the prefix of the metrics of an evaluator; that of the test images has none."""
    return f"{evaluator}/" if evaluator else ""


def _flat(start: str, results: Mapping[str, Mapping[str, float]], main: str) -> dict[str, float]:
    """Returns the metrics of one evaluator in one dictionary, those of `main` first."""
    metrics = {f"{start}{metric}": value for metric, value in results[main].items()}
    for name, values in results.items():
        if name == main:
            continue
        metrics |= {f"{start}{metric}/{name}": value for metric, value in values.items()}
        if "accuracy" in values and "accuracy" in results[main]:
            gap = values["accuracy"] - results[main]["accuracy"]
            metrics[f"{start}accuracy_gap/{name}"] = gap
    return metrics
