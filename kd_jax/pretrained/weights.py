"""Networks of finished stages: finding and reading them."""

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from etils import epath
from jax.sharding import Sharding, SingleDeviceSharding

from kd_jax.core.errors import UsageError, check_choice, choices, reason
from kd_jax.core.files import PathLike, absolute_path, read_json
from kd_jax.core.hashing import content_hash
from kd_jax.data.preprocessing import Views
from kd_jax.models import Outputs
from kd_jax.pretrained.info import NetworkInfo
from kd_jax.training.checkpoints import Checkpoints

if TYPE_CHECKING:
    from kd_jax.pretrained.predicting import Image, Prediction, Predictor

PyTree = Any
LAST = "last"
CHECKPOINTS = (LAST, "best")
FINISHED = "stage.json"
"""The file that the folder of a finished stage holds."""
HEAD, EMBEDDING = "classifier", "embedding"
"""Name of the parameters of every network's classifier."""


@dataclasses.dataclass(frozen=True)
class Weights:
    """A network of a finished stage.

    Attributes:
        folder: folder of the stage.
        role: role of the network in the stage.
        step: step of the checkpoint.
        info: description of the network.
    """

    folder: epath.Path
    role: str
    step: int
    info: NetworkInfo

    @classmethod
    def find(cls, folder: epath.Path, role: str | None, which: str, key: str) -> "Weights":
        """Finds a network.

        Args:
            folder: folder of a finished stage.
            role: role of the network in it. None is `student`, or the first role where there is no
                student.
            which: `last` or `best` checkpoint.
            key: option that names the folder, for errors.

        Raises:
            UsageError: if the stage is not finished, or has no such network.
        """
        check_choice(which, CHECKPOINTS, f"checkpoint of {key}")
        if not (folder / FINISHED).exists():
            raise UsageError(
                f"{key} = {str(folder)!r} is no finished stage: name an earlier stage of the"
                f" pipeline, or the folder of a stage that ran to its end (it holds {FINISHED})."
            )
        ended = _ended(folder, which, key)
        with Checkpoints(folder / "checkpoints", read_only=True) as checkpoints:
            step = checkpoints.latest if which == "last" else checkpoints.best
            if step is None or step != ended:
                found = "there is none" if step is None else f"the stored one is of step {step}"
                raise UsageError(
                    f"{key} = {str(folder)!r}: the {which} checkpoint must be of step {ended}, but"
                    f" {found}: delete the folder and train or import the stage again."
                )
            networks = checkpoints.read_json(step, "meta").get("networks")
        if not isinstance(networks, Mapping) or not networks:
            raise UsageError(f"{key} = {str(folder)!r} describes no network: name another folder.")
        if role is None:
            role = "student" if "student" in networks else next(iter(networks))
        if role not in networks:
            raise UsageError(
                f"{key} = {str(folder)!r} has no role {role!r}: its roles are"
                f" {choices(role, networks)}."
            )
        return cls(folder, role, step, NetworkInfo.from_json(networks[role]))

    def read(self, template: PyTree, sharding: Sharding) -> PyTree:
        """Reads the variables in the shapes of `template`."""
        with Checkpoints(self.folder / "checkpoints", read_only=True) as checkpoints:
            return checkpoints.restore_network(self.step, self.role, template, sharding)

    def read_without_head(self, fresh: PyTree, sharding: Sharding) -> PyTree:
        """Reads the variables, except the classifier, which is taken from `fresh`.

        Raises:
            UsageError: if the networks have no classifier of this name, or differ in other parts.
        """
        with Checkpoints(self.folder / "checkpoints", read_only=True) as checkpoints:
            stored = checkpoints.restore_stored(self.step, f"network_{self.role}", sharding)
        return with_head(stored, fresh, self.info.name, self.folder)

    def provenance(self, variables: PyTree, workdir: epath.Path) -> dict[str, Any]:
        """Returns the JSON by which a resumed run recognizes these weights."""
        inside = self.folder.is_relative_to(workdir)
        folder = self.folder.relative_to(workdir) if inside else self.folder
        return {
            "folder": str(folder),
            "role": self.role,
            "step": self.step,
            "hash": content_hash(variables),
        }


def _ended(folder: epath.Path, which: str, key: str) -> int:
    """Returns the step of the last or the best checkpoint of a finished stage."""
    try:
        step: int = read_json(folder / FINISHED)[which]["step"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{key} = {str(folder)!r} has a damaged {FINISHED} ({reason(error)}): delete the"
            " folder and train or import the stage again."
        ) from error
    return step


def with_head(stored: PyTree, fresh: PyTree, network: str, path: PathLike) -> PyTree:
    """Returns stored variables with the classifier of others.

    A linear map to the embedding is taken from the others too if the stored network has none: so
    networks of ImageNet start networks for retrieval.

    Args:
        stored: the variables; they may have no classifier.
        fresh: variables with the classifier.
        network: name of the network, for errors.
        path: folder or file of the stored variables, for errors.

    Raises:
        UsageError: if the network has no classifier of the usual name, or other parts differ.
    """
    if HEAD not in fresh.get("params", {}):
        raise UsageError(
            f"init_head = False needs networks whose classifier is called {HEAD!r}, but"
            f" {network!r} has none: set init_head = True."
        )
    params, own = fresh["params"], stored.get("params", {})
    names = {HEAD} if EMBEDDING in own else {HEAD, EMBEDDING}
    new = {name: params[name] for name in names & params.keys()}
    variables = {**stored, "params": {**own, **new}}
    if jax.tree.map(jnp.shape, variables) != jax.tree.map(jnp.shape, fresh):
        raise UsageError(
            f"{str(path)!r} differs from this network in more than the classifier: use"
            " the same architecture and options."
        )
    return variables


def read_adapters(folder: epath.Path, key: str, sharding: Sharding) -> dict[str, PyTree]:
    """Reads the trained adapters of a finished stage, by name.

    Args:
        folder: folder of the stage.
        key: option that names the folder, for errors.
        sharding: sharding of all arrays.

    Raises:
        UsageError: if the stage is not finished, or has no adapters.
    """
    step = Weights.find(folder, None, "last", key).step
    with Checkpoints(folder / "checkpoints", read_only=True) as checkpoints:
        adapters = checkpoints.restore_stored(step, "adapters", sharding).get("params") or {}
    if not adapters:
        raise UsageError(f"{key} = {str(folder)!r} has no adapters: leave it out.")
    return adapters


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """A trained network, ready to use.

    Attributes:
        network: the module.
        variables: its parameters and batch statistics.
        views: resampling and normalization as in training, for the one role `student`.
        info: description of the network.
    """

    network: nn.Module
    variables: PyTree
    views: Views
    info: NetworkInfo

    @classmethod
    def of(cls, info: NetworkInfo, variables: PyTree) -> "Trained":
        """Makes the network of a description, with its variables."""
        views = Views({"student": info.view}, filter=info.filter, center=info.center)
        return cls(info.module(), variables, views, info)

    def __repr__(self) -> str:
        """Names the network; its variables would fill thousands of lines."""
        height, width = self.info.size
        return (
            f"Trained({self.info.name}, {self.info.num_classes} classes,"
            f" {height}x{width}x{len(self.info.mean)})"
        )

    def __call__(self, images: jax.Array) -> Outputs:
        """Computes the outputs for uint8 images, 0 to 255; it may be jitted.

        Args:
            images: uint8 `[N, H, W, C]`, or `[N, H, W]` for a network of gray images.

        Raises:
            UsageError: if the images are not uint8, or have another number of channels or axes.
        """
        images, channels = jnp.asarray(images), len(self.info.mean)
        if images.ndim == 3 and channels == 1:
            images = images[..., None]
        if images.dtype != jnp.uint8 or images.ndim != 4 or images.shape[-1] != channels:
            raise UsageError(
                f"Images must be uint8 [N, H, W, {channels}] with values 0 to 255, not"
                f" {images.dtype} {list(images.shape)}: convert them."
            )
        return self.outputs(images)

    def predict(self, images: "Iterable[Image]", *, top_k: int = 5) -> "list[list[Prediction]]":
        """Returns the most probable classes of image files or arrays of any size.

        Args:
            images: the images, see `kd_jax.pretrained.predicting.Predictor`.
            top_k: number of classes per image.
        """
        return self._predictor(images, top_k=top_k)

    @functools.cached_property
    def _predictor(self) -> "Predictor":
        from kd_jax.pretrained.predicting import Predictor

        return Predictor(self)

    def outputs(self, images: jax.Array) -> Outputs:
        """Computes the outputs for images `[N, H, W, C]`, 0 to 255, of any dtype, unchecked."""
        view = self.views.evaluation(jnp.asarray(images))["student"]
        return cast(Outputs, self.network.apply(self.variables, view, train=False))


def load(
    stage: PathLike, *, role: str | None = None, checkpoint: str = "last", key: str = "stage"
) -> Trained:
    """Reads a trained network on the default device, on whatever devices it was trained.

    Of a stage with `ema_decay`, it reads the averages.

    Args:
        stage: folder of a finished stage, such as `runs/quickstart/student`, or a file that
            `kd-jax export --format=safetensors` wrote.
        role: role of the network in the stage. None is `student`, or the first role where there is
            no student.
        checkpoint: `last` or `best`.
        key: name of the option for errors.

    Raises:
        UsageError: if there is no such network, or a user's own module that registered it cannot
            be imported.
    """
    from kd_jax.pretrained import network_files  # imports the tables, which import this module

    path, sharding = absolute_path(stage, key), SingleDeviceSharding(jax.devices()[0])
    if path.is_file():  # a FIFO is none
        if role is not None:
            raise UsageError(f"{key} = {str(path)!r} is a file of one network: omit the role.")
        info, variables = network_files.read(path, key)
        return Trained.of(info, jax.device_put(variables, sharding))
    weights = Weights.find(path, role, checkpoint, key)
    info = weights.info
    return Trained.of(info, weights.read(info.shapes(info.module()), sharding))
