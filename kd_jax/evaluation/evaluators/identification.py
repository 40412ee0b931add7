"""Identification of faces among known faces, at full and at low resolution of the probe."""

import dataclasses
from collections.abc import Callable

import numpy as np

from kd_jax.core.errors import UsageError, check_choice
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
from kd_jax.evaluation.faces.galleries import FaceGallery, read_gallery, read_scface
from kd_jax.evaluation.identification import identification

LAYOUTS = ("folders", "scface")


@EVALUATORS.register("identification")
@dataclasses.dataclass(frozen=True)
class IdentificationEvaluator(Evaluator):
    """Fractions of probes with a mate among the k nearest known images: `rank_<k>`.

    See `kd_jax.evaluation.identification`. For probes that are reduced to 8 pixels the metrics are
    named `rank_<k>_8`, and so on for each of `probe_sizes`. SCface has three sets of probes, which
    are named by distance: `rank_<k>_4.2m`, `rank_<k>_2.6m`, `rank_<k>_1.0m`.

    Attributes:
        images: folder of the images.
        identities: number of random identities to use; None is all that have a probe. The layout
            `"scface"` always uses all.
        gallery_images: number of known images per identity, for the layout `"folders"`.
        seed: seed of the random choice, for the layout `"folders"`.
        size: height and width of the center that is cut out of every image, such as (112, 96) of
            112x112; None uses whole images.
        probe_sizes: heights to which probes are reduced, in addition to full resolution.
        ranks: values of k; those above the number of known images are left out.
        layout: `"folders"` for one folder per identity, `"scface"` for the files of SCface.
    """

    images: str
    identities: int | None = None
    gallery_images: int = 1
    seed: int = 0
    size: tuple[int, int] | None = None
    probe_sizes: tuple[int, ...] = ()
    ranks: tuple[int, ...] = (1, 5, 10)
    layout: str = "folders"

    def __post_init__(self):
        check_choice(self.layout, LAYOUTS, "layout")
        check_options(self.size, self.probe_sizes)
        if not self.ranks or min(self.ranks) < 1:
            raise ValueError(f"ranks must be one or more numbers of images, not {self.ranks}")
        if not 0 <= self.seed < 2**64:
            raise ValueError("seed must be 0 or more, and less than 2**64")
        choice = (self.identities, self.gallery_images, self.seed)
        if self.layout == "scface" and choice != (None, 1, 0):
            raise ValueError(
                "identities, gallery_images and seed are not used by the layout 'scface': omit them"
            )

    def build(self, context: EvaluationContext) -> Callable[[PyTree], Metrics]:
        """Reads the images and prepares one program for all names and sizes."""
        faces = self._read()
        known = faces.gallery
        check_images(known.images, context, self.probe_sizes, faces.name)
        ranks = [rank for rank in self.ranks if rank <= len(known)]
        if len(np.unique(known.labels)) < 2 or not ranks:
            raise UsageError(
                f"{faces.name} has {len(known)} known images of"
                f" {len(np.unique(known.labels))} identities: use two identities or more, and ranks"
                " up to the number of known images."
            )
        embed = embedder(context)
        sizes = (None, *dict.fromkeys(self.probe_sizes))

        def evaluate(variables: PyTree) -> Metrics:
            gallery = embed(variables, known.images)
            metrics: Metrics = {name: {} for name in context.names}
            for set_name, probes in faces.probes.items():
                distance = set_name if len(faces.probes) > 1 else None
                for size in sizes:
                    embeddings = embed(variables, probes.images, size=size)
                    for name in context.names:
                        with usage_errors(f"Identification in {faces.name} by {name}"):
                            result = identification(
                                gallery[name],
                                known.labels,
                                embeddings[name],
                                probes.labels,
                                ranks=ranks,
                            )
                        for rank, rate in result.cmc.items():
                            metrics[name][suffixed(f"rank_{rank}", distance, size)] = rate
            return metrics

        return evaluate

    def _read(self) -> FaceGallery:
        if self.layout == "scface":
            return read_scface(self.images, self.size)
        return read_gallery(self.images, self.size, self.identities, self.seed, self.gallery_images)
