"""Checks of a plan: sizes, evaluators, and errors of networks and methods in one sentence."""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from kd_jax.core import user_code
from kd_jax.core.errors import UsageError, check_choice
from kd_jax.data import Loader
from kd_jax.evaluation import EVALUATORS, EvaluationContext, Evaluator
from kd_jax.experiment.specs import DataSpec, StageSpec
from kd_jax.experiment.stage_metrics import Images, own_evaluators, prefix, tests_new_classes

LARGEST = 2**31
"""Limit of JAX: an array must have fewer values, and a stage fewer steps."""


@contextlib.contextmanager
def one_sentence(key: str, remedy: str) -> Iterator[None]:
    """Turns an error into a `UsageError` that names a config key.

    Networks, methods and sources can fail anywhere for options that are out of their range, and a
    user's own classes raise whatever they like.

    Args:
        key: config key of the object that fails.
        remedy: advice at the end of the error.
    """
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        if type(error) is ValueError and len(str(error).splitlines()) == 1:  # a sentence already
            raise UsageError(f"{key}: {error}") from error
        raise UsageError(f"{key} cannot be used ({user_code.raised(error)}): {remedy}.") from error


def with_key(key: str, error: UsageError) -> str:
    """Returns the sentence of an error, which begins with the config key."""
    text = str(error)
    return text if text.startswith(key) else f"{key}: {text}"


def check_sizes(data: DataSpec, image_shape: tuple[int, int, int]) -> None:
    """Raises `UsageError` for batches and crops that are too large for any device."""
    height, width, channels = image_shape
    crop = data.augmentation
    if crop.crop_padding > max(height, width):
        raise UsageError(
            f"data.augmentation.crop_padding = {crop.crop_padding} is more than the images have"
            f" pixels, {height}x{width}: choose a few pixels, such as {max(1, height // 8)}."
        )
    if crop.crop > height:
        raise UsageError(
            f"data.augmentation.crop = {crop.crop} is impossible: choose 1 to {height}, the height"
            " of the images."
        )
    enlarged = max(1.0, crop.resized_crop / height, 1 + 2 * crop.crop_padding / height)
    for key, scale in (("batch_size", enlarged), ("eval_batch_size", 1.0)):
        number = getattr(data, key)
        values = number * height * width * channels * scale**2
        if values >= LARGEST:
            raise UsageError(
                f"data.{key} = {number} gives batches of {values:.3g} values, and the limit is"
                " 2**31: choose fewer or smaller images."
            )


def check_parts(key: str, stage: StageSpec, data: DataSpec, mesh: Mesh) -> None:
    """Raises `UsageError` if the batch of a device cannot be divided into the parts of a stage.

    Args:
        key: config key of the number of parts.
        stage: the specification of the stage.
        data: the specification of the images.
        mesh: devices of the run.
    """
    images = data.batch_size // mesh.size
    if images % stage.accumulate:
        raise UsageError(
            f"{key} = {stage.accumulate} does not divide the {images} images that each device has"
            f" of data.batch_size = {data.batch_size}: choose a number that divides {images}."
        )
    each, rest = divmod(data.images_per_class, stage.accumulate)
    if data.images_per_class > 1 and (rest or each < 2):
        raise UsageError(
            f"{key} = {stage.accumulate} does not leave 2 or more of the data.images_per_class ="
            f" {data.images_per_class} images of a class for each part: choose a multiple of"
            f" {stage.accumulate} images per class, at least {2 * stage.accumulate}."
        )


def check_shapes(shapes: Any, key: str) -> None:
    """Raises `UsageError` for a network with an array that is too large for any device.

    Args:
        shapes: shapes of the parameters of the network.
        key: config key of the network.
    """
    largest = max((leaf.size for leaf in jax.tree.leaves(shapes)), default=0)
    if largest >= LARGEST:
        raise UsageError(
            f"{key} has an array of {largest:.3g} values, and the limit is 2**31: choose a smaller"
            " network, such as a smaller options.width."
        )


def check_evaluators(
    name: str,
    stage: StageSpec,
    data: DataSpec,
    images: Images,
    mesh: Mesh,
    outputs: tuple,
    networks: tuple,
) -> None:
    """Raises `UsageError` for evaluators of splits, and for a `best`, that a stage cannot have.

    Evaluators that read further images are built when the stage starts.

    Args:
        name: name of the stage.
        stage: its specification.
        data: the specification of the images.
        images: images by split.
        mesh: devices of the run.
        outputs: names of the evaluated outputs.
        networks: names of the networks that can embed any image.
    """
    new_classes = tests_new_classes(images)
    if new_classes and not {**own_evaluators(data, images), **stage.evaluators}:
        raise UsageError(
            f"stages.{name}.evaluators is empty, but the test images have other classes than the"
            " training images, so that there is no accuracy: name an evaluator, such as retrieval."
        )
    for word, evaluator in stage.evaluators.items():
        key, split = f"stages.{name}.evaluators.{word}", getattr(evaluator, "split", None)
        if split is None:
            continue
        if split not in images:
            raise UsageError(
                f"{key}.split = {split!r} has no images: set data.test_split or"
                f" data.validation_fraction, or choose one of {', '.join(images)}."
            )
        classes = images["train"].num_classes
        if split == "test" and new_classes and isinstance(evaluator, _classification()):
            raise UsageError(
                f"{key} compares the logits of the training classes with test images of other"
                " classes: choose another evaluator, such as retrieval, or another split."
            )
        if max(getattr(evaluator, "top_k", ()), default=0) > classes:
            raise UsageError(f"{key}.top_k must be 1 to {classes}, the number of classes.")
        context = EvaluationContext(
            names=outputs,
            predict=_no_outputs,
            loader=lambda split: _Count(len(images[split])),
            batch_size=data.eval_batch_size,
            mesh=mesh,
            image_shape=images["train"].image_shape,
            networks=networks,
            outputs=_no_outputs,
        )
        try:
            with one_sentence(key, "check its options"):
                evaluator.build(context)
        except UsageError as error:
            raise UsageError(with_key(key, error)) from error
    if stage.best is not None:
        own = own_evaluators(data, images)
        _check_best(f"stages.{name}.best", stage, own, outputs)


@dataclasses.dataclass
class _Count(Loader):
    """A set of images of which only the number is known."""

    count: int

    def __len__(self) -> int:
        """See `Loader`."""
        return self.count


def _no_outputs(variables: Any, images: Any) -> Any:
    raise NotImplementedError


def _classification() -> Any:
    """Returns the class of the evaluator of accuracies."""
    return EVALUATORS.get("classification")


def _check_best(
    key: str, stage: StageSpec, own: Mapping[str, Evaluator], outputs: tuple[str, ...]
) -> None:
    """Raises `UsageError` for a metric that no evaluator of the stage has, `own` included."""
    best = (stage.best or "").removeprefix("-")
    classification = _classification()
    evaluators: dict[str, Any] = {**own, **stage.evaluators}
    roles = dict.fromkeys((*outputs[1:], *stage.networks))
    known = []
    for name, evaluator in evaluators.items():
        start = prefix(name)
        if not isinstance(evaluator, classification):
            if best.startswith(start):
                return  # its metrics are known after the first evaluation only
            known.append(f"{start}{evaluator.headline}")
            continue
        metrics = ("accuracy", "cross_entropy", *(f"top_{k}" for k in evaluator.top_k))
        known += [f"{start}{metric}" for metric in metrics]
        pairs = itertools.product((*metrics, "accuracy_gap"), roles)
        known += [f"{start}{metric}/{role}" for metric, role in pairs]
    check_choice(best, known, key)
