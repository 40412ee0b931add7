"""Retrieval in a whole set: each image queries all others by its embedding."""

import dataclasses
from collections.abc import Callable

from kd_jax.core.errors import UsageError, check_choice
from kd_jax.data.preprocessing import Degradation
from kd_jax.evaluation._embeddings import usage_errors
from kd_jax.evaluation.base import (
    EVALUATORS,
    SPLITS,
    EvaluationContext,
    Evaluator,
    Metrics,
    PyTree,
)
from kd_jax.evaluation.evaluators._shared import check_options, embedder, suffixed
from kd_jax.evaluation.faces.low_resolution import MODES
from kd_jax.evaluation.retrieval import METRICS, retrieval


@EVALUATORS.register("retrieval")
@dataclasses.dataclass(frozen=True)
class RetrievalEvaluator(Evaluator):
    """Metrics of retrieval, such as `recall_at_<K>`; see `kd_jax.evaluation.retrieval`.

    Every network sees the images at its own resolution, as in training, so that queries and gallery
    of a student are low, as in HORKD. With `gallery="teacher"` the queries are low, by the student,
    and the gallery is sharp, by the teacher; both embeddings must be of one space. In all cases
    the image of the query is left out of its gallery.

    `probe_sizes` reduces the queries, or both, before the network sees them. For 32 pixels the
    metrics are named `recall_at_1_32`, and so on.

    Attributes:
        split: evaluated set, one of `SPLITS`.
        ks: values of K, each from 1 to the number of images minus 1.
        metrics: names in `kd_jax.evaluation.retrieval.METRICS`: `recall`, `map_at_r`,
            `r_precision`, `nmi`. The last one is slow for many classes.
        gallery: name of the network that embeds the gallery, such as `"teacher"`; None is the
            network of the queries.
        probe_sizes: heights to which queries are reduced, in addition to full resolution. They are
            those of the stored images, from which `data.augmentation.crop` then takes the center.
        mode: images that are reduced: `"hr_lr"` for the queries against a gallery at full
            resolution, `"lr_lr"` for both.
        blur: Gaussian filter before the reduction, as in `Degradation`.
        down: filter of the reduction, as in `Degradation`.
        up: filter of the enlargement, as in `Degradation`.
        seed: seed of the clusters of `nmi`.
    """

    split: str = "test"
    ks: tuple[int, ...] = (1, 2, 4, 8)
    metrics: tuple[str, ...] = ("recall",)
    gallery: str | None = None
    probe_sizes: tuple[int, ...] = ()
    mode: str = "hr_lr"
    blur: float = Degradation.blur
    down: str = Degradation.down
    up: str = Degradation.up
    seed: int = 0

    def __post_init__(self):
        check_choice(self.split, SPLITS, "split")
        if not self.ks or min(self.ks) < 1:
            raise ValueError(f"ks must be one or more numbers of images, not {self.ks}")
        if not self.metrics:
            raise ValueError(f"metrics must be one or more of {', '.join(METRICS)}")
        for name in self.metrics:
            check_choice(name, METRICS, "metrics")
        check_choice(self.mode, MODES, "mode")
        check_options(None, self.probe_sizes)
        Degradation(blur=self.blur, down=self.down, up=self.up)
        if not 0 <= self.seed < 2**32:
            raise ValueError("seed must be 0 or more, and less than 2**32")

    @property
    def headline(self) -> str:
        """See `Evaluator`."""
        return f"recall_at_{self.ks[0]}" if "recall" in self.metrics else self.metrics[0]

    def build(self, context: EvaluationContext) -> Callable[[PyTree], Metrics]:
        """Reads the split and prepares one program for all names and sizes."""
        loader = context.loader(self.split)
        self._check(context, len(loader))
        degradation = Degradation(blur=self.blur, down=self.down, up=self.up)
        embed = embedder(context, degradation, self.gallery)

        def evaluate(variables: PyTree) -> Metrics:
            sharp, labels = embed.embed_loader(variables, loader)
            metrics: Metrics = {name: {} for name in context.names}
            for size in (None, *dict.fromkeys(self.probe_sizes)):
                queries = sharp
                if size is not None:
                    queries, _ = embed.embed_loader(variables, loader, size=size)
                gallery = queries if MODES[self.mode][0] else sharp
                for name in context.names:
                    known = gallery[self.gallery or name]
                    with usage_errors(f"Retrieval of {self.split} by {name}"):
                        result = retrieval(
                            queries[name],
                            labels,
                            None if known is queries[name] else known,
                            ks=self.ks,
                            metrics=self.metrics,
                            seed=self.seed,
                            mesh=context.mesh,
                        )
                    for metric, value in result.metrics().items():
                        metrics[name][suffixed(metric, size)] = value
            return metrics

        return evaluate

    def _check(self, context: EvaluationContext, number: int) -> None:
        """Raises `UsageError` if the options do not fit the images or the networks."""
        if "recall" in self.metrics and max(self.ks) >= number:
            raise UsageError(
                f"ks = {self.ks} is impossible: choose 1 to {number - 1}, the number of other"
                f" images of the split {self.split!r}."
            )
        if self.gallery is not None and context.networks:
            known = dict.fromkeys((*context.names, *context.networks))
            check_choice(self.gallery, known, "gallery")
        if context.image_shape is not None and self.probe_sizes:
            height = context.image_shape[0]
            if max(self.probe_sizes) > height:
                raise UsageError(
                    f"probe_sizes = {self.probe_sizes} is impossible: choose 1 to {height}, the"
                    " height of the images."
                )
