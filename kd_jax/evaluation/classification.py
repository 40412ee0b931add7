"""Classification: accuracy, top-k accuracy, accuracy per class, and the confusion matrix."""

import dataclasses
import io
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike


@dataclasses.dataclass(frozen=True)
class Classification:
    """The result of `classification`; rates are fractions from 0 to 1.

    Attributes:
        accuracy: fraction of the images whose greatest logit is that of their label.
        top_k: by k, the fraction of the images whose label is among the k greatest logits.
        per_class: accuracy of the images of each class, `[C]`; None for a class without images.
        confusion: number of images by label (row) and by prediction (column), int64 `[C, C]`.
        images: number of images.
    """

    accuracy: float
    top_k: Mapping[int, float]
    per_class: tuple[float | None, ...]
    confusion: np.ndarray
    images: int

    def to_json(self) -> dict[str, Any]:
        """Returns the result as `json.dumps` takes it."""
        return {
            "accuracy": self.accuracy,
            **{f"top_{k}": value for k, value in self.top_k.items()},
            "per_class": list(self.per_class),
            "confusion": self.confusion.tolist(),
            "images": self.images,
        }


def classification(
    logits: ArrayLike, labels: ArrayLike, *, top_k: Iterable[int] = (1, 5)
) -> Classification:
    """Compares logits with labels.

    Of equal logits, the first one counts as the greatest. An image with a logit that is NaN or
    infinite is wrong; in the confusion matrix it counts for the class of its greatest finite logit
    that is not its label.

    Args:
        logits: `[N, C]`.
        labels: int `[N]`, values 0 to C - 1.
        top_k: values of k; those above C are left out.

    Returns:
        The rates and counts.

    Raises:
        ValueError: if the shapes do not fit, a label is out of range, or a k is below 1.
    """
    scores, classes = np.asarray(logits), np.asarray(labels)
    if scores.ndim != 2 or not len(scores) or classes.shape != scores.shape[:1]:
        raise ValueError(
            f"logits must be [N, C] and labels [N], not {list(scores.shape)} and"
            f" {list(classes.shape)}"
        )
    number = scores.shape[1]
    if classes.min() < 0 or classes.max() >= number:
        raise ValueError(
            f"labels go from {classes.min()} to {classes.max()}, but the network has {number}"
            " classes"
        )
    ks = tuple(top_k)
    if any(k < 1 for k in ks):
        raise ValueError(f"top_k must be 1 or more, not {ks}")
    rows = np.arange(len(scores))
    finite = np.isfinite(scores).all(1)
    usable = np.where(np.isfinite(scores), scores, -np.inf)
    usable[rows[~finite], classes[~finite]] = -np.inf
    order = np.argsort(-usable, axis=1, kind="stable")
    hits = order == classes[:, None]
    right = hits[:, 0] & finite
    confusion = np.zeros((number, number), np.int64)
    np.add.at(confusion, (classes, order[:, 0]), 1)
    sizes = np.bincount(classes, minlength=number)
    correct = np.bincount(classes[right], minlength=number)
    return Classification(
        accuracy=float(right.mean()),
        top_k={k: float((hits[:, :k].any(1) & finite).mean()) for k in ks if k <= number},
        per_class=tuple(
            float(hit / size) if size else None for hit, size in zip(correct, sizes, strict=True)
        ),
        confusion=confusion,
        images=len(scores),
    )


def confusion_png(confusion: np.ndarray, title: str) -> bytes:
    """Draws a confusion matrix; each row is divided by the number of its images.

    Args:
        confusion: counts `[C, C]`, rows are labels.
        title: text above the picture.

    Returns:
        The content of a PNG file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    counts = np.asarray(confusion, float)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    figure = Figure(figsize=(6, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="viridis", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="fraction of the images of the class")
    axes.set(xlabel="prediction", ylabel="label", title=title)
    if len(counts) <= 20:
        axes.set(xticks=range(len(counts)), yticks=range(len(counts)))
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return file.getvalue()
