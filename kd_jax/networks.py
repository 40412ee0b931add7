"""The networks of an experiment: what they are, and where their first weights come from."""

import dataclasses
import functools

from etils import epath

from kd_jax.config import Experiment
from kd_jax.data import ImageSet, StoredImages, check_aspect, view_size
from kd_jax.errors import UsageError
from kd_jax.files import folder
from kd_jax.weights import NetworkCard, Weights


@dataclasses.dataclass(frozen=True, eq=False)
class Networks:
    """Fills in what the config leaves to the images and to `init_from`.

    Attributes:
        spec: of the experiment.
        workdir: of the run.
        images: the training set.
    """

    spec: Experiment
    workdir: epath.Path
    images: ImageSet | StoredImages

    @functools.cached_property
    def _statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        given, channels = self.spec.data.normalisation, self.images.image_shape[-1]
        if given is None:
            return self.images.channel_statistics()
        mean, deviation = (
            values * channels if len(values) == 1 else values
            for values in (given.mean, given.deviation)
        )
        if not len(mean) == len(deviation) == channels:
            raise UsageError(
                f"data.normalisation has {len(given.mean)} means and {len(given.deviation)}"
                f" deviations, but the images {channels} channels: give one for each, or one for"
                " all."
            )
        return mean, deviation

    def card(self, stage: str, role: str) -> NetworkCard:
        """What the network of a role is.

        Architecture, options and resolution come from `init_from` where the config names no
        architecture. A network that starts from weights keeps the normalisation that these know.
        """
        spec = self.spec.stages[stage].networks[role]
        source, where = self._source(stage, role), f"stages.{stage}.networks.{role}"
        image_size = self.images.image_shape[:2]
        if spec.name is None:
            name, options = source.name, {**source.options, **spec.options}
            size = source.size
            if spec.resolution is not None:
                size = view_size(spec.resolution, image_size, f"{where}.resolution")
        else:
            name, options = spec.name, dict(spec.options)
            size = view_size(spec.resolution, image_size, f"{where}.resolution")
        mean, deviation = (source.mean, source.deviation) if source else self._statistics
        return NetworkCard(
            name=name,
            options=options,
            num_classes=self.images.num_classes,
            size=size,
            filter=self.spec.data.filter,
            mean=mean,
            deviation=deviation,
        )

    def weights(self, stage: str, role: str) -> Weights:
        """Where the first weights of a network with `init_from` lie."""
        spec = self.spec.stages[stage].networks[role]
        inside = spec.init_from in self.spec.stages
        path = self.workdir / spec.init_from if inside else folder(spec.init_from)
        key = f"stages.{stage}.networks.{role}.init_from"
        return Weights.find(path, spec.init_role, spec.init_checkpoint, key)

    def _source(self, stage: str, role: str) -> NetworkCard | None:
        """The network that the weights were trained in; None if they are random."""
        spec = self.spec.stages[stage].networks[role]
        if spec.init_from is None:
            return None
        if spec.init_from in self.spec.stages:
            return self.card(spec.init_from, spec.init_role)
        card = self.weights(stage, role).card
        ours = {
            "num_classes": self.images.num_classes,
            "filter": self.spec.data.filter,
            "channels": self.images.image_shape[-1],
        }
        theirs = {
            "num_classes": card.num_classes,
            "filter": card.filter,
            "channels": len(card.mean),
        }
        for name, value in ours.items():
            if theirs[name] != value:
                raise UsageError(
                    f"stages.{stage}.networks.{role}.init_from = {spec.init_from!r} was trained"
                    f" with {name} {theirs[name]!r}, but these images have {value!r}: choose"
                    " weights that fit."
                )
        remedy = "choose weights that fit, or change data.source.size"
        check_aspect(card.size, self.images.image_shape[:2], remedy)
        return card
