r"""EKD's Fig. 3 (Ge et al., IEEE TCSVT 2021): t-SNE of what trained students make of ten classes.

    python experiments/tsne.py --workdir=runs/tsne \
        alone=runs/ekd/student_alone KD=runs/ekd/kd EKD=runs/ekd/ekd

Every student is the folder of a finished stage; a name may stand before it. All of them see the
same 50 test images of the same ten classes, chosen by `--seed`; their embeddings are drawn side by
side in `tsne.png`. Beside the pictures stands a number, since pictures are read as one likes: the
share of images whose nearest other image, by embedding, is of their own class.
"""

import argparse
import dataclasses
import io
import json
import sys
from collections.abc import Mapping, Sequence

import jax
import numpy as np
import tables
from etils import epath

from kd_jax import cli, report
from kd_jax.config import experiment
from kd_jax.data import ImageSet
from kd_jax.errors import UsageError
from kd_jax.files import folder, write_atomically
from kd_jax.weights import load


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return cli.command(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> None:
    parser = tables.Parser(__doc__)
    parser.add_argument("students", nargs="+", help="[NAME=]FOLDER of a finished stage")
    parser.add_argument("--classes", type=int, default=10, help="how many (default: 10)")
    parser.add_argument("--images", type=int, default=50, help="of each class (default: 50)")
    parser.add_argument("--perplexity", type=float, default=30.0, help="of t-SNE (default: 30)")
    parser.add_argument("--seed", type=int, default=0, help="of classes, images and t-SNE")
    args = parser.parse_args(argv)

    students = {}
    for text in args.students:
        name, equals, path = text.partition("=")
        place = folder(path if equals else text)
        name = name if equals else place.name
        if name in students:
            raise UsageError(f"Two students are called {name!r}: write NAME=FOLDER for each.")
        students[name] = place
    chosen = choose(_test_images(next(iter(students.values()))), args)
    embeddings = {name: _embed(place, chosen.images) for name, place in students.items()}
    rows = [
        [name, f"{100 * neighbours(found, chosen.labels):.1f}"]
        for name, found in embeddings.items()
    ]
    text = report.markdown(("student", "nearest other image of its own class [%]"), rows)
    workdir = folder(args.workdir)
    tables.write(text, workdir)
    write_atomically(workdir / "tsne.png", draw(embeddings, chosen.labels, args))
    print(f"{text}\n\n{workdir / 'tsne.png'}")


def _test_images(stage: epath.Path) -> ImageSet:
    """The test images of the run that a stage belongs to."""
    path = stage.parent / "config.json"
    try:
        data = experiment(json.loads(path.read_text())).data
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{stage} belongs to no run, since {path} cannot be read ({error}): name the folder of"
            " a finished stage, such as runs/quickstart/student."
        ) from error
    return data.source.load(data.test_split)


def choose(images: ImageSet, args: argparse.Namespace) -> ImageSet:
    """Some images of some classes, the same for one seed."""
    present, counts = np.unique(images.labels, return_counts=True)
    present = present[counts >= args.images]
    if len(present) < args.classes:
        raise UsageError(
            f"--classes={args.classes} is impossible: {len(present)} classes have --images="
            f"{args.images} test images or more; choose fewer of either."
        )
    generator = np.random.default_rng(args.seed)
    classes = np.sort(generator.choice(present, args.classes, replace=False))
    rows = np.concatenate(
        [
            generator.choice(np.flatnonzero(images.labels == name), args.images, replace=False)
            for name in classes
        ]
    )
    return dataclasses.replace(images, images=images.images[rows], labels=images.labels[rows])


def _embed(stage: epath.Path, images: np.ndarray) -> np.ndarray:
    student = load(stage)
    return np.asarray(jax.jit(lambda images: student(images).embedding)(images))


def neighbours(embeddings: np.ndarray, labels: np.ndarray) -> float:
    """Share of the rows whose nearest other row has their label."""
    from sklearn.neighbors import NearestNeighbors

    found = NearestNeighbors(n_neighbors=1).fit(embeddings).kneighbors(return_distance=False)
    return float(np.mean(labels[found[:, 0]] == labels))


def draw(
    embeddings: Mapping[str, np.ndarray], labels: np.ndarray, args: argparse.Namespace
) -> bytes:
    """The picture, PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from sklearn.manifold import TSNE

    perplexity = min(args.perplexity, (len(labels) - 1) / 3)
    figure = Figure(figsize=(4 * len(embeddings), 4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (name, rows) in zip(
        figure.subplots(1, len(embeddings), squeeze=False)[0], embeddings.items(), strict=True
    ):
        points = TSNE(perplexity=perplexity, random_state=args.seed, init="pca").fit_transform(rows)
        for place, label in enumerate(np.unique(labels)):
            of_class = points[labels == label]
            axes.scatter(*of_class.T, s=8, color=f"C{place}", label=str(label))
        axes.set(title=name, xticks=[], yticks=[])
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", title="class")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


if __name__ == "__main__":
    sys.exit(main())
