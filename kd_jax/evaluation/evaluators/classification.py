"""Accuracy of classifiers over a whole set; every image counts once."""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax import losses
from kd_jax.core.devices import place, replicated, split
from kd_jax.core.errors import UsageError, check_choice
from kd_jax.data.loaders import batch_of
from kd_jax.data.resident import Resident
from kd_jax.evaluation.base import (
    EVALUATORS,
    SPLITS,
    EvaluationContext,
    Evaluator,
    Metrics,
    PyTree,
)


@EVALUATORS.register("classification")
@dataclasses.dataclass(frozen=True)
class ClassificationEvaluator(Evaluator):
    """Metrics of logits: `accuracy`, `cross_entropy`, and `top_<k>` for each of `top_k`.

    `accuracy` is the fraction of the images whose greatest logit is that of their label. `top_<k>`
    is the fraction of the images whose label is among the k greatest logits. Of equal logits, the
    first one counts as the greatest. An image with a logit that is NaN or infinite is wrong.
    `cross_entropy` is the mean over the images.

    Attributes:
        split: evaluated set, one of `SPLITS`.
        top_k: values of k, each from 1 to the number of classes.
    """

    split: str = "test"
    top_k: tuple[int, ...] = ()

    def __post_init__(self):
        check_choice(self.split, SPLITS, "split")
        if any(k < 1 for k in self.top_k):
            raise ValueError(f"top_k must be 1 or more, not {self.top_k}")

    @property
    def headline(self) -> str:
        """See `Evaluator`."""
        return "accuracy"

    def build(self, context: EvaluationContext) -> Callable[[PyTree], Metrics]:
        """Reads the split and compiles one program for all names."""
        loader = context.loader(self.split)
        whole, batches = replicated(context.mesh), split(context.mesh)

        def count(
            variables: PyTree, images: Resident | None, rows: Mapping[str, jax.Array]
        ) -> dict[str, dict[str, jax.Array]]:
            batch = batch_of(images, rows)
            outputs = context.predict(variables, batch["image"])
            return {
                name: self._sums(outputs[name].logits, batch["label"], batch["where"])
                for name in context.names
            }

        compiled = jax.jit(count, in_shardings=(whole, None, batches), out_shardings=whole)

        def evaluate(variables: PyTree) -> Metrics:
            parts = []
            for rows in loader.batches(context.batch_size):
                placed = {name: place(array, batches) for name, array in rows.items()}
                parts.append(compiled(variables, loader.images, placed))
            total = jax.tree.map(
                lambda *x: float(np.sum(x, dtype=np.float64)), *jax.device_get(parts)
            )
            return jax.tree.map(lambda value: value / len(loader), total)

        return evaluate

    def _sums(self, logits: jax.Array, labels: jax.Array, where: jax.Array) -> dict[str, jax.Array]:
        """Returns the sums of all metrics over a batch.

        Args:
            logits: `[N, C]`.
            labels: int `[N]`.
            where: bool `[N]`, False for padding.
        """
        finite = jnp.isfinite(logits).all(-1)  # argmax of NaN is arbitrary
        right = (logits.argmax(-1) == labels) & finite
        sums = {
            "accuracy": jnp.sum(right & where),
            "cross_entropy": jnp.sum(losses.cross_entropy(logits, labels), where=where),
        }
        if self.top_k:
            if max(self.top_k) > logits.shape[-1]:
                raise UsageError(
                    f"top_k = {self.top_k} is impossible: choose 1 to {logits.shape[-1]}, the"
                    " number of classes."
                )
            ranked = jax.lax.top_k(logits, max(self.top_k))[1] == labels[:, None]
            for k in self.top_k:
                hit = ranked[:, :k].any(-1) & finite
                sums[f"top_{k}"] = jnp.sum(hit & where)
        return sums
