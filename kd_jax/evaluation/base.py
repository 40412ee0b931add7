"""Evaluators: measure the networks of a stage during and after training."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from kd_jax.core.registry import Registry
from kd_jax.data.loaders import Loader
from kd_jax.models import Outputs

PyTree = Any
Metrics = dict[str, dict[str, float]]
"""Metrics by the name of the evaluated output, then by the name of the metric."""
SPLITS = ("train", "validation", "test")
"""Names of the sets of images that an evaluator can ask for."""


@dataclasses.dataclass(frozen=True)
class EvaluationContext:
    """Input of an evaluator.

    Attributes:
        names: names of the evaluated outputs; the first one is the result of the stage.
        predict: from variables and images, uint8 `[N, H, W, C]`, to the outputs of every name. It
            can be traced by `jax.jit`.
        loader: returns the images of a split, one of `SPLITS`.
        batch_size: number of images per batch, over all devices.
        mesh: devices over which a batch is split.
        image_shape: (height, width, channels) of the training images, for evaluators that read
            other images: these must have the same aspect ratio and channels. None omits this check.
        networks: names of all networks of the stage, the frozen ones too, for evaluators that
            compare networks. It is empty if only the outputs of `names` can be computed.
        outputs: from the arguments of `predict` to the outputs of all `networks`.
    """

    names: tuple[str, ...]
    predict: Callable[[PyTree, jax.Array], dict[str, Outputs]]
    loader: Callable[[str], Loader]
    batch_size: int
    mesh: Mesh
    image_shape: tuple[int, int, int] | None = None
    networks: tuple[str, ...] = ()
    outputs: Callable[[PyTree, jax.Array], dict[str, Outputs]] | None = None


class Evaluator:
    """Measures trained networks. A subclass is a frozen dataclass of options.

    To add an evaluator, add a file to `kd_jax/evaluation/evaluators` with a class that is
    registered by `@EVALUATORS.register("name")`.
    """

    @property
    def headline(self) -> str:
        """Returns the name of the metric that describes a network in a table."""
        raise NotImplementedError

    def check_files(self) -> None:
        """Raises `UsageError` if a file of the evaluation cannot be opened; reads none.

        It is called before the first stage is trained. By default there are no files.
        """

    def build(self, context: EvaluationContext) -> Callable[[PyTree], Metrics]:
        """Reads what the evaluation needs and compiles it.

        Args:
            context: networks, images and devices.

        Returns:
            A function from variables to the metrics of every name in `context.names`.

        Raises:
            UsageError: if the options do not fit the images.
        """
        raise NotImplementedError


EVALUATORS: Registry[type[Evaluator]] = Registry("evaluator", "kd_jax.evaluation.evaluators")
"""All evaluators by name."""
