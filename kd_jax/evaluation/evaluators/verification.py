"""Verification of pairs of faces, at full and at low resolution of the probe."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from kd_jax.core.errors import check_choice
from kd_jax.data.preprocessing import Degradation
from kd_jax.evaluation._embeddings import usage_errors
from kd_jax.evaluation.base import (
    EVALUATORS,
    EvaluationContext,
    Evaluator,
    Metrics,
    PyTree,
)
from kd_jax.evaluation.evaluators._shared import (
    check_images,
    check_options,
    check_readable,
    embedder,
    suffixed,
)
from kd_jax.evaluation.faces.low_resolution import MODES, embed_pairs, verify_embedded
from kd_jax.evaluation.faces.pairs import FacePairs, read_bin, read_pairs
from kd_jax.evaluation.faces.protocols import protocol_of, uncentered
from kd_jax.evaluation.verification import as_folds

Sides = dict[int | None, dict[str, Any]]
"""Embeddings of pairs by size, side and network."""


@EVALUATORS.register("verification")
@dataclasses.dataclass(frozen=True)
class VerificationEvaluator(Evaluator):
    """Metrics of pairs of faces: `accuracy`, `auc` and `eer`; see `kd_jax.evaluation.verification`.

    They are those of probes at full resolution. For probes that are reduced to 8 pixels they are
    named `accuracy_8`, `auc_8` and `eer_8`, and so on for each of `probe_sizes`.

    Attributes:
        pairs: path of a list of pairs in the format of LFW, or of a pack of insightface, whose name
            ends in `.bin`.
        images: folder of the images that the list names; None for a pack, which has the images.
        size: height and width of the center that is cut out of every image, such as (112, 96) of
            112x112; None uses whole images.
        probe_sizes: heights to which probes are reduced, in addition to full resolution.
        mode: images that are reduced: `"hr_lr"` for the second image of each pair, `"lr_lr"` for
            both.
        blur: Gaussian filter before the reduction, as in `Degradation`.
        down: filter of the reduction, as in `Degradation`.
        up: filter of the enlargement, as in `Degradation`.
        protocol: a name in `PROTOCOLS`.
        threshold: one threshold that is set beforehand, in the units of the protocol's metric. None
            chooses it by cross-validation.
        threshold_pairs: path of other pairs, in the format of `pairs`, with images in the same
            folder. The best threshold of these pairs is used, for each size.
    """

    pairs: str
    images: str | None = None
    size: tuple[int, int] | None = None
    probe_sizes: tuple[int, ...] = ()
    mode: str = "hr_lr"
    blur: float = Degradation.blur
    down: str = Degradation.down
    up: str = Degradation.up
    protocol: str = "exact"
    threshold: float | None = None
    threshold_pairs: str | None = None

    def __post_init__(self):
        check_choice(self.mode, MODES, "mode")
        protocol_of(self.protocol)
        check_options(self.size, self.probe_sizes)
        Degradation(blur=self.blur, down=self.down, up=self.up)
        if self.threshold is not None or self.threshold_pairs is not None:
            uncentered(self.protocol)
        if self.threshold is not None and self.threshold_pairs is not None:
            raise ValueError("threshold and threshold_pairs both set the threshold: leave one out")
        if self.pairs.endswith(".bin") != (self.images is None):
            raise ValueError(
                "images must be the folder of the images that a list of pairs names, and None for"
                " pairs in a .bin file"
            )

    @property
    def headline(self) -> str:
        """See `Evaluator`."""
        return "accuracy"

    def check_files(self) -> None:
        """See `Evaluator`."""
        for path in (self.pairs, self.threshold_pairs):
            if path is not None:
                check_readable(path)
        if self.images is not None:
            check_readable(self.images, folder=True)

    def build(self, context: EvaluationContext) -> Callable[[PyTree], Metrics]:
        """Reads the pairs and prepares one program for all names and sizes."""
        pairs, threshold = self._read(self.pairs), self._threshold()
        check_pairs(pairs, context, self.probe_sizes)
        if isinstance(threshold, FacePairs):
            check_pairs(threshold, context, self.probe_sizes)
        embed_set = embedder(context, Degradation(blur=self.blur, down=self.down, up=self.up))
        sizes = (None, *self.probe_sizes)

        def evaluate(variables: PyTree) -> Metrics:
            def embedded(some: FacePairs) -> Sides:
                embed = functools.partial(embed_set, variables)
                return embed_pairs(embed, some, sizes, mode=self.mode, protocol=self.protocol)

            sides = embedded(pairs)
            others = embedded(threshold) if isinstance(threshold, FacePairs) else {}
            metrics: Metrics = {name: {} for name in context.names}
            for size in sizes:
                for name in context.names:
                    with usage_errors(f"Verification of {pairs.name} by {name}"):
                        result = verify_embedded(
                            pairs,
                            {side: rows[name] for side, rows in sides[size].items()},
                            self.protocol,
                            threshold,
                            {side: rows[name] for side, rows in others.get(size, {}).items()},
                        )
                    for metric in ("accuracy", "auc", "eer"):
                        metrics[name][suffixed(metric, size)] = getattr(result, metric)
            return metrics

        return evaluate

    def _threshold(self) -> float | FacePairs | None:
        return self.threshold if self.threshold_pairs is None else self._read(self.threshold_pairs)

    def _read(self, path: str) -> FacePairs:
        if self.images is None:
            return read_bin(path, self.size)
        return read_pairs(path, self.images, self.size)


def check_pairs(pairs: FacePairs, context: EvaluationContext, probe_sizes: tuple[int, ...]) -> None:
    """Raises `UsageError` if pairs do not fit the networks, or a fold lacks pairs of one kind."""
    check_images(pairs.images, context, probe_sizes, pairs.name)
    with usage_errors(pairs.name):
        as_folds(pairs.same, pairs.fold, len(pairs.same))
