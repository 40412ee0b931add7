"""The networks of an experiment: their descriptions, and the origin of their first weights."""

import dataclasses
import functools
from typing import Any

from etils import epath

from kd_jax import models
from kd_jax.core.errors import UsageError
from kd_jax.core.files import absolute_path
from kd_jax.data import ImageSet, StoredImages
from kd_jax.data.preprocessing import Normalization, check_aspect, view_size
from kd_jax.experiment.network_spec import NetworkSpec
from kd_jax.experiment.specs import Experiment
from kd_jax.pretrained import FileWeights, NetworkInfo, Weights
from kd_jax.pretrained.info import RECORDED
from kd_jax.pretrained.recorded import RecordedOutputs, read_recorded
from kd_jax.pretrained.weights import LAST

PyTree = Any


@dataclasses.dataclass(frozen=True, eq=False)
class Roles:
    """Completes the networks of the config by the images and by `init_from`.

    Attributes:
        spec: the experiment.
        workdir: folder of the run.
        images: the training set.
        _files: files of recorded outputs that have been read.
        _weights: files of weights that have been read, by stage and role.
    """

    spec: Experiment
    workdir: epath.Path
    images: ImageSet | StoredImages
    _files: dict[tuple[str | None, str], RecordedOutputs] = dataclasses.field(default_factory=dict)
    _weights: dict[tuple[str, str], FileWeights] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def _statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        given = self.spec.data.normalization
        if given is None:
            return self.images.channel_statistics()
        return self._per_channel(given, "data.normalization")

    def _per_channel(
        self, given: Normalization, key: str
    ) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Returns one mean and one standard deviation per channel."""
        channels = self.images.image_shape[-1]
        mean, std = (
            values * channels if len(values) == 1 else values for values in (given.mean, given.std)
        )
        if not len(mean) == len(std) == channels:
            raise UsageError(
                f"{key} has {len(given.mean)} means and {len(given.std)} standard"
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
            size=size or self._view_size(resolution, f"{key}.resolution"),
            filter=self.spec.data.filter,
            mean=mean,
            std=std,
            imports=self._imports(name, f"{key}.name"),
        )

    def _view_size(self, resolution: int | None, key: str) -> tuple[int, int]:
        """Returns height and width of the input of a network."""
        enlarged = self.spec.data.augmentation.resized_crop
        return view_size(resolution, self._seen_size, key, enlarged=enlarged)

    @property
    def _seen_size(self) -> tuple[int, int]:
        """Returns height and width of the part of the images that evaluation sees."""
        return self.spec.data.augmentation.evaluated_size(self.images.image_shape[:2])

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

    def folder(self, source: str, key: str) -> epath.Path:
        """Returns the folder of a stage: of this run, or of another one; `key` is for errors."""
        return self.workdir / source if source in self.spec.stages else absolute_path(source, key)

    def weights(self, stage: str, role: str) -> Weights | FileWeights:
        """Finds the first weights of a network with `init_from`."""
        if (stage, role) in self._weights:
            return self._weights[stage, role]
        spec = self.spec.stages[stage].networks[role]
        key = f"stages.{stage}.networks.{role}"
        path = self.folder(spec.init_from or "", f"{key}.init_from")
        if spec.init_from not in self.spec.stages:
            if path.exists() and not path.is_dir():
                self._weights[stage, role] = self._file_weights(spec, path, key)
                return self._weights[stage, role]
            if not path.exists():
                raise UsageError(
                    f"{key}.init_from = {spec.init_from!r} is no finished stage and no file: name"
                    " an earlier stage of the pipeline, the folder of a stage that ran to its end,"
                    " or a file of weights, such as resnet56.pth."
                )
        _check_stage(spec, key)
        return Weights.find(path, self._source_role(spec), spec.init_checkpoint, f"{key}.init_from")

    def _file_weights(self, spec: NetworkSpec, path: epath.Path, key: str) -> FileWeights:
        """Reads the description of weights that are in a file."""
        if spec.name is None:
            raise UsageError(
                f"{key}.name is missing: init_from = {spec.init_from!r} is a file, so name its"
                " architecture, such as resnet56."
            )
        if spec.init_role is not None or spec.init_checkpoint != LAST:
            raise UsageError(
                f"{key}: init_role and init_checkpoint are not used with the file"
                f" {spec.init_from!r}: leave them out."
            )
        mean: tuple[float, ...] = ()
        std: tuple[float, ...] = ()
        if spec.normalization is not None:
            mean, std = self._per_channel(spec.normalization, f"{key}.normalization")
        image_shape = self.images.image_shape
        info = NetworkInfo(
            name=spec.name,
            options=dict(spec.options),
            num_classes=self.images.num_classes,
            size=self._view_size(spec.resolution, f"{key}.resolution"),
            filter=self.spec.data.filter,
            mean=mean,
            std=std,
            imports=self._imports(spec.name, f"{key}.name"),
        )
        try:
            weights = FileWeights(path, info, image_shape[-1], spec.init_head, spec.bgr).completed()
        except UsageError as error:
            raise UsageError(f"{key}: {error}") from error
        if not weights.info.mean:
            mean, std = self._statistics
            info = dataclasses.replace(weights.info, mean=mean, std=std)
            weights = dataclasses.replace(weights, info=info)
        return weights

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
            _check_stage(spec, f"stages.{stage}.networks.{role}")
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
        check_aspect(info.size, self._seen_size, remedy)
        return info


def _check_stage(spec: NetworkSpec, key: str) -> None:
    """Raises `UsageError` for options that are for files, where `init_from` is a stage."""
    if spec.normalization is not None or spec.bgr is not None:
        raise UsageError(
            f"{key}.init_from = {spec.init_from!r} is a stage, which knows the normalization of its"
            " images: leave normalization and bgr out."
        )
