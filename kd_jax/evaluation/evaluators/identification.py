"""Identification of faces among known faces, at full and at low resolution of the probe."""

import dataclasses
from collections.abc import Callable

import numpy as np

from kd_jax.core.errors import UsageError, check_choice
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
from kd_jax.evaluation.faces.galleries import FaceGallery, read_gallery, read_scface
from kd_jax.evaluation.identification import RANKED, identification

LAYOUTS = ("folders", "scface")


@EVALUATORS.register("identification")
@dataclasses.dataclass(frozen=True)
class IdentificationEvaluator(Evaluator):
    """Fractions of probes with a mate among the k nearest known images or identities: `rank_<k>`.

    See `kd_jax.evaluation.identification`. For probes that are reduced to 8 pixels the metrics are
    named `rank_<k>_8`, and so on for each of `probe_sizes`. SCface has three sets of probes, which
    are named by distance: `rank_<k>_4.2m`, `rank_<k>_2.6m`, `rank_<k>_1.0m`.

    Attributes:
        images: folder of the images.
        identities: number of random identities to use; None is all that have a probe. The layout
            `"scface"` always uses all.
        gallery_images: number of known images per identity, for the layout `"folders"`.
        probe_fraction: fraction of the images of each identity that are probes, the split of the
            source `face_folder` with this `test_fraction`. 0 takes `gallery_images` known images.
        min_images: smallest number of images of an identity, for the layout `"folders"`.
        seed: seed of the random choice, for the layout `"folders"`.
        size: height and width of the center that is cut out of every image, such as (112, 96) of
            112x112; None uses whole images.
        probe_sizes: heights to which probes are reduced, in addition to full resolution.
        blur: Gaussian filter before the reduction, as in `Degradation`.
        down: filter of the reduction, as in `Degradation`.
        up: filter of the enlargement, as in `Degradation`.
        ranks: values of k; those above the number of known images or identities are left out.
        ranked: objects that a rank counts, `"images"` or `"identities"`.
        layout: `"folders"` for one folder per identity, `"scface"` for the files of SCface.
    """

    images: str
    identities: int | None = None
    gallery_images: int = 1
    probe_fraction: float = 0.0
    min_images: int = 1
    seed: int = 0
    size: tuple[int, int] | None = None
    probe_sizes: tuple[int, ...] = ()
    blur: float = Degradation.blur
    down: str = Degradation.down
    up: str = Degradation.up
    ranks: tuple[int, ...] = (1, 5, 10)
    ranked: str = "images"
    layout: str = "folders"

    def __post_init__(self):
        check_choice(self.layout, LAYOUTS, "layout")
        check_choice(self.ranked, RANKED, "ranked")
        check_options(self.size, self.probe_sizes)
        Degradation(blur=self.blur, down=self.down, up=self.up)
        if not self.ranks or min(self.ranks) < 1:
            raise ValueError(f"ranks must be one or more numbers of images, not {self.ranks}")
        if not 0 <= self.seed < 2**64:
            raise ValueError("seed must be 0 or more, and less than 2**64")
        if not 0 <= self.probe_fraction < 1:
            raise ValueError("probe_fraction must be 0 or more, and less than 1")
        if self.probe_fraction and self.gallery_images != 1:
            raise ValueError("probe_fraction replaces gallery_images: omit one of them")
        if self.min_images < 1:
            raise ValueError(f"min_images must be 1 or more, not {self.min_images}")
        choice = (self.identities, self.gallery_images, self.probe_fraction, self.min_images)
        if self.layout == "scface" and (*choice, self.seed) != (None, 1, 0, 1, 0):
            raise ValueError(
                "identities, gallery_images, probe_fraction, min_images and seed are not used by"
                " the layout 'scface': omit them"
            )

    @property
    def headline(self) -> str:
        """See `Evaluator`."""
        return f"rank_{self.ranks[0]}" if self.layout == "folders" else f"rank_{self.ranks[0]}_4.2m"

    def check_files(self) -> None:
        """See `Evaluator`."""
        check_readable(self.images, folder=True)

    def build(self, context: EvaluationContext) -> Callable[[PyTree], Metrics]:
        """Reads the images and prepares one program for all names and sizes."""
        faces = self._read()
        known = faces.gallery
        check_images(known.images, context, self.probe_sizes, faces.name)
        identities = len(np.unique(known.labels))
        most = len(known) if self.ranked == "images" else identities
        ranks = [rank for rank in self.ranks if rank <= most]
        if identities < 2 or not ranks:
            raise UsageError(
                f"{faces.name} has {len(known)} known images of {identities} identities: use two"
                f" identities or more, and ranks up to the number of known {self.ranked}."
            )
        embed = embedder(context, Degradation(blur=self.blur, down=self.down, up=self.up))
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
                                ranked=self.ranked,
                                mesh=context.mesh,
                            )
                        for rank, rate in result.cmc.items():
                            metrics[name][suffixed(f"rank_{rank}", distance, size)] = rate
            return metrics

        return evaluate

    def _read(self) -> FaceGallery:
        if self.layout == "scface":
            return read_scface(self.images, self.size)
        return read_gallery(
            self.images,
            self.size,
            self.identities,
            self.seed,
            self.gallery_images,
            self.probe_fraction,
            self.min_images,
        )
