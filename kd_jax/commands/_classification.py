"""Evaluation of classifiers, for `kd-jax evaluate --source=NAME`."""

from collections.abc import Mapping
from typing import Any

from etils import epath

from kd_jax.core.errors import UsageError
from kd_jax.core.files import write_file
from kd_jax.core.text import markdown
from kd_jax.data import SOURCES, ImageSet
from kd_jax.evaluation.classification import classification, confusion_png
from kd_jax.experiment.building import build
from kd_jax.experiment.keys import override
from kd_jax.experiment.specs import DataSpec
from kd_jax.pretrained.classifier import Classifier
from kd_jax.pretrained.weights import Trained


def read_source(name: str, options: Mapping[str, str], split: str) -> ImageSet:
    """Reads a split of a source that the command line names.

    Args:
        name: name of the source.
        options: texts of its options, as in `--source.path=DIR`.
        split: split in the notation of TFDS.

    Raises:
        UsageError: if the source or an option is unknown, or the images cannot be read.
    """
    assignments = {"source.name": name, **{f"source.{k}": v for k, v in options.items()}}
    values = dict(override(DataSpec, {"source": {}}, assignments)["source"])
    return build(SOURCES.get(values.pop("name"), "--source"), values, "--source").load(split)


def classify(trained: Trained, images: ImageSet, sizes: tuple[int | None, ...]) -> dict[str, Any]:
    """Evaluates a classifier at several resolutions of the images; returns JSON.

    Args:
        trained: the classifier.
        images: labeled images.
        sizes: heights to which the images are reduced first; None leaves them as they are.

    Raises:
        UsageError: if the images do not fit the network.
    """
    if images.num_classes > trained.info.num_classes:
        raise UsageError(
            f"The images have {images.num_classes} classes, but the network has"
            f" {trained.info.num_classes}: choose images of the classes it was trained on."
        )
    logits = Classifier(trained)
    metrics = {
        "full" if size is None else str(size): classification(
            logits(images.images, size=size), images.labels
        ).to_json()
        for size in sizes
    }
    first = next(iter(metrics.values()))
    head = {name: value for name, value in first.items() if name in ("accuracy", "top_5")}
    return {**head, "resolutions": metrics}


def table(metrics: Mapping[str, Any]) -> str:
    """Returns the results as a Markdown table, in percent."""
    results = metrics["resolutions"]
    names = [name for name in ("accuracy", "top_5") if name in next(iter(results.values()))]
    rows = []
    for resolution, result in results.items():
        classes = [value for value in result["per_class"] if value is not None]
        cells = [f"{100 * result[name]:.2f}" for name in names]
        spread = [f"{100 * min(classes):.2f}", f"{100 * max(classes):.2f}"]
        rows.append([resolution, *cells, *spread, str(result["images"])])
    columns = ("resolution", *names, "worst class", "best class", "images")
    return markdown(columns, rows)


def write_confusion(metrics: Mapping[str, Any], path: epath.Path) -> list[epath.Path]:
    """Draws the confusion matrix of each resolution next to the JSON file; returns the files."""
    files = []
    for resolution, result in metrics["resolutions"].items():
        file = path.with_name(f"{path.stem}_confusion_{resolution}.png")
        accuracy = f"accuracy {100 * result['accuracy']:.2f} %"
        write_file(file, confusion_png(result["confusion"], f"{resolution}: {accuracy}"))
        files.append(file)
    return files
