"""Retrieval in a whole set: each image queries all others by its embedding."""

import dataclasses
from collections.abc import Callable

from kd_jax.core.errors import UsageError, check_choice
from kd_jax.evaluation._embeddings import usage_errors
from kd_jax.evaluation.base import (
    EVALUATORS,
    SPLITS,
    EvaluationContext,
    Evaluator,
    Metrics,
    PyTree,
)
from kd_jax.evaluation.evaluators._shared import embedder
from kd_jax.evaluation.retrieval import recall_at_k


@EVALUATORS.register("retrieval")
@dataclasses.dataclass(frozen=True)
class RetrievalEvaluator(Evaluator):
    """Recall@K of the embeddings, `recall_at_<K>`; see `kd_jax.evaluation.recall_at_k`.

    Attributes:
        split: evaluated set, one of `SPLITS`.
        ks: values of K, each from 1 to the number of images minus 1.
    """

    split: str = "test"
    ks: tuple[int, ...] = (1, 2, 4, 8)

    def __post_init__(self):
        check_choice(self.split, SPLITS, "split")
        if not self.ks or min(self.ks) < 1:
            raise ValueError(f"ks must be one or more numbers of images, not {self.ks}")

    @property
    def headline(self) -> str:
        """See `Evaluator`."""
        return f"recall_at_{self.ks[0]}"

    def build(self, context: EvaluationContext) -> Callable[[PyTree], Metrics]:
        """Reads the split and prepares one program for all names."""
        loader = context.loader(self.split)
        if max(self.ks) >= len(loader):
            raise UsageError(
                f"ks = {self.ks} is impossible: choose 1 to {len(loader) - 1}, the number of other"
                f" images of the split {self.split!r}."
            )
        embed = embedder(context)

        def evaluate(variables: PyTree) -> Metrics:
            embeddings, labels = embed.embed_loader(variables, loader)
            metrics = {}
            for name in context.names:
                with usage_errors(f"Retrieval of {self.split} by {name}"):
                    recalls = recall_at_k(embeddings[name], labels, ks=self.ks)
                metrics[name] = {
                    f"recall_at_{k}": float(recalls[f"recall_at_{k}"]) for k in self.ks
                }
            return metrics

        return evaluate
