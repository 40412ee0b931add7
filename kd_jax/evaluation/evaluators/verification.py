"""Verification of pairs of faces, at full and at low resolution of the probe."""

import dataclasses
import functools
from collections.abc import Callable

from kd_jax.core.errors import check_choice
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
    embedder,
    suffixed,
)
from kd_jax.evaluation.faces.low_resolution import MODES, embed_pairs
from kd_jax.evaluation.faces.pairs import FacePairs, read_bin, read_pairs
from kd_jax.evaluation.faces.protocols import protocol_of
from kd_jax.evaluation.verification import as_folds, verification


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
        protocol: a name in `PROTOCOLS`.
    """

    pairs: str
    images: str | None = None
    size: tuple[int, int] | None = None
    probe_sizes: tuple[int, ...] = ()
    mode: str = "hr_lr"
    protocol: str = "exact"

    def __post_init__(self):
        check_choice(self.mode, MODES, "mode")
        protocol_of(self.protocol)
        check_options(self.size, self.probe_sizes)
        if self.pairs.endswith(".bin") != (self.images is None):
            raise ValueError(
                "images must be the folder of the images that a list of pairs names, and None for"
                " pairs in a .bin file"
            )

    def build(self, context: EvaluationContext) -> Callable[[PyTree], Metrics]:
        """Reads the pairs and prepares one program for all names and sizes."""
        pairs = self._read()
        check_images(pairs.images, context, self.probe_sizes, pairs.name)
        with usage_errors(pairs.name):
            as_folds(pairs.same, pairs.fold, len(pairs.same))
        embed_set = embedder(context)
        sizes = (None, *self.probe_sizes)

        def evaluate(variables: PyTree) -> Metrics:
            embed = functools.partial(embed_set, variables)
            sides = embed_pairs(embed, pairs, sizes, mode=self.mode, protocol=self.protocol)
            metrics: Metrics = {name: {} for name in context.names}
            for size, embeddings in sides.items():
                for name in context.names:
                    with usage_errors(f"Verification of {pairs.name} by {name}"):
                        result = verification(
                            same=pairs.same,
                            fold=pairs.fold,
                            protocol=self.protocol,
                            **{side: by_name[name] for side, by_name in embeddings.items()},
                        )
                    for metric in ("accuracy", "auc", "eer"):
                        metrics[name][suffixed(metric, size)] = getattr(result, metric)
            return metrics

        return evaluate

    def _read(self) -> FacePairs:
        if self.images is None:
            return read_bin(self.pairs, self.size)
        return read_pairs(self.pairs, self.images, self.size)
