"""The networks of an experiment: their descriptions, and the origin of their first weights."""

import dataclasses
import functools
from typing import Any

from etils import epath

from kd_jax import models
from kd_jax.core.errors import UsageError
from kd_jax.core.files import absolute_path
from kd_jax.data import ImageSet, StoredImages
from kd_jax.data.preprocessing import check_aspect, view_size
from kd_jax.experiment.specs import Experiment
from kd_jax.pretrained import NetworkInfo, Weights
from kd_jax.pretrained.info import RECORDED
from kd_jax.pretrained.recorded import RecordedOutputs, read_recorded

PyTree = Any


@dataclasses.dataclass(frozen=True, eq=False)
class Roles:
    """Completes the networks of the config by the images and by `init_from`.

    Attributes:
        spec: the experiment.
        workdir: folder of the run.
        images: the training set.
        _files: files of recorded outputs that have been read.
    """

    spec: Experiment
    workdir: epath.Path
    images: ImageSet | StoredImages
    _files: dict[tuple[str | None, str], RecordedOutputs] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def _statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        given, channels = self.spec.data.normalization, self.images.image_shape[-1]
        if given is None:
            return self.images.channel_statistics()
        mean, std = (
            values * channels if len(values) == 1 else values for values in (given.mean, given.std)
        )
        if not len(mean) == len(std) == channels:
            raise UsageError(
                f"data.normalization has {len(given.mean)} means and {len(given.std)} standard"
                f" deviations, but the images have {channels} channels: give one for each channel,"
                " or one for all."
            )
        return mean, std

    def info(self, stage: str, role: str) -> NetworkInfo:
        """Returns the description of the network of a role.

        Architecture, options and resolution come from `init_from` where the config names no
        architecture. A network that starts from weights keeps their normalization.
        """
        spec = self.spec.stages[stage].networks[role]
        key = f"stages.{stage}.networks.{role}"
        if spec.name == RECORDED:
            return self._recorded_info(self.recorded(stage, role))
        source = self._source(stage, role)
        image_size = self.images.image_shape[:2]
        name, options = spec.name, dict(spec.options)
        resolution, size = spec.resolution, None
        if name is None and source is not None:
            name, options = source.name, {**source.options, **spec.options}
            size = source.size if resolution is None else None
        if name is None:
            raise UsageError(f"{key}.name is missing: name an architecture.")
        mean, std = (source.mean, source.std) if source else self._statistics
        return NetworkInfo(
            name=name,
            options=options,
            num_classes=self.images.num_classes,
            size=size or view_size(resolution, image_size, f"{key}.resolution"),
            filter=self.spec.data.filter,
            mean=mean,
            std=std,
            imports=self._imports(name, f"{key}.name"),
        )

    def recorded(self, stage: str, role: str) -> RecordedOutputs:
        """Reads the recorded outputs of a role."""
        path = self.spec.stages[stage].networks[role].path
        key = f"stages.{stage}.networks.{role}.path"
        if (path, key) not in self._files:
            self._files[path, key] = read_recorded(path or "", key)
        return self._files[path, key]

    def recorded_variables(self, stage: str, role: str) -> PyTree:
        """Returns the recorded outputs of the training images, as variables of the role."""
        recorded, spec = self.recorded(stage, role), self.spec.stages[stage].networks[role]
        rows = recorded.select(self.images.names, f"stages.{stage}.networks.{role}.path")
        return recorded.variables(rows, center=spec.center)

    def _recorded_info(self, recorded: RecordedOutputs) -> NetworkInfo:
        classes, logits = self.images.num_classes, recorded.logits
        if logits is not None and logits.shape[1] != classes:
            raise UsageError(
                f"{recorded.path} has logits of {logits.shape[1]} classes, but the images have"
                f" {classes}: record a teacher of these classes."
            )
        features = None if recorded.embedding is None else recorded.embedding.shape[1]
        return NetworkInfo(
            name=RECORDED,
            options={
                "num_images": len(self.images),
                "features": features,
                "logits": logits is not None,
            },
            num_classes=classes,
            size=self.images.image_shape[:2],
            filter=self.spec.data.filter,
            mean=(),
            std=(),
        )

    def _imports(self, name: str, key: str) -> tuple[str, ...]:
        """Returns the user's own module that registers an architecture, if there is one."""
        models.NETWORKS.get(name, key)
        origin = models.NETWORKS.origin(name)
        return () if origin is None else (origin,)

    def folder(self, source: str) -> epath.Path:
        """Returns the folder of a stage: of this run, or of another one."""
        return self.workdir / source if source in self.spec.stages else absolute_path(source)

    def weights(self, stage: str, role: str) -> Weights:
        """Finds the first weights of a network with `init_from`."""
        spec = self.spec.stages[stage].networks[role]
        key = f"stages.{stage}.networks.{role}.init_from"
        folder = self.folder(spec.init_from or "")
        return Weights.find(folder, self._source_role(spec), spec.init_checkpoint, key)

    def _source_role(self, spec: Any) -> str | None:
        """Returns the role of the network that `init_from` means."""
        source = self.spec.stages.get(spec.init_from)
        if spec.init_role is not None or source is None:
            return spec.init_role
        return source.method.trained_roles[0]

    def source_of(self, stage: str, role: str) -> tuple[str, str] | None:
        """Returns stage and role of the network that a network starts from, if in this run."""
        spec = self.spec.stages[stage].networks[role]
        if spec.init_from not in self.spec.stages:
            return None
        return spec.init_from, self._source_role(spec) or ""

    def _source(self, stage: str, role: str) -> NetworkInfo | None:
        """Returns the network that the weights were trained in; None if they are random."""
        spec = self.spec.stages[stage].networks[role]
        if spec.init_from is None:
            return None
        if (source := self.source_of(stage, role)) is not None:
            return self.info(*source)
        info = self.weights(stage, role).info
        ours = {
            "num_classes": self.images.num_classes,
            "filter": self.spec.data.filter,
            "channels": self.images.image_shape[-1],
        }
        theirs = {
            "num_classes": info.num_classes if spec.init_head else ours["num_classes"],
            "filter": info.filter,
            "channels": len(info.mean),
        }
        for name, value in ours.items():
            if theirs[name] != value:
                head = ", or set init_head = False" if name == "num_classes" else ""
                raise UsageError(
                    f"stages.{stage}.networks.{role}.init_from = {spec.init_from!r} was trained"
                    f" with {name} {theirs[name]!r}, but these images have {value!r}: choose"
                    f" weights that fit{head}."
                )
        remedy = "choose weights that fit, or change data.source.size"
        check_aspect(info.size, self.images.image_shape[:2], remedy)
        return info
