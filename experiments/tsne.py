r"""EKD's Fig. 3 (Zhang et al., IEEE TCSVT 2021): t-SNE of the students' embeddings of ten classes.

    python experiments/ekd_tables.py --workdir=runs/ekd --tables=fig3 --path=tiny-imagenet-200
    cells=runs/ekd/seed_5/tiny_imagenet
    python experiments/tsne.py --workdir=runs/tsne alone=$cells-alone-resnet18/student_alone \
        KD=$cells-kd-resnet50-resnet18/kd EKD=$cells-ekd-resnet50-resnet18/ekd

Every student is the folder of a finished stage, optionally with a name before it. All students see
the same 50 test images of the same ten classes, which `--seed` chooses; their runs must have the
same test images. The embeddings are drawn side by side in `tsne.png`. Since pictures can be read in
many ways, the table has a number: the fraction of images whose nearest other image, by embedding,
is of the same class.
"""

import argparse
import dataclasses
import io
import json
import sys
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from etils import epath

from kd_jax.commands import Parser, exit_code
from kd_jax.core.errors import UsageError
from kd_jax.core.files import absolute_path, write_atomically
from kd_jax.core.text import markdown
from kd_jax.data import ImageSet, Source
from kd_jax.experiment import tables
from kd_jax.experiment.specs import experiment
from kd_jax.pretrained import load

EXAMPLE = "python experiments/tsne.py --workdir=runs/tsne runs/quickstart/student"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return exit_code(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> None:
    parser = Parser(__doc__ or "", EXAMPLE)
    parser.add_argument("students", nargs="+", help="[NAME=]FOLDER of a finished stage")
    parser.add_argument("--workdir", help="folder of tsne.png and table.md")
    parser.add_argument("--classes", type=int, default=10, help="number of classes (default: 10)")
    parser.add_argument("--images", type=int, default=50, help="images per class (default: 50)")
    parser.add_argument("--perplexity", type=float, default=30.0, help="of t-SNE (default: 30)")
    parser.add_argument("--seed", type=int, default=0, help="seed of classes, images and t-SNE")
    args = parser.parse(argv)
    parser.require(args, "workdir")

    students: dict[str, epath.Path] = {}
    for text in args.students:
        name, equals, path = text.partition("=")
        folder = absolute_path(path if equals else text)
        name = name if equals else folder.name
        if name in students:
            raise UsageError(f"Two students have the name {name!r}: write NAME=FOLDER for each.")
        students[name] = folder
    chosen = choose(_common_images(students), args)
    embeddings = {name: _embed(folder, chosen.images) for name, folder in students.items()}
    rows = [
        [name, f"{100 * neighbor_fraction(found, chosen.labels):.1f}"]
        for name, found in embeddings.items()
    ]
    text = markdown(("student", "nearest other image of the same class [%]"), rows)
    workdir = absolute_path(args.workdir)
    tables.write(text, workdir)
    write_atomically(workdir / "tsne.png", draw(embeddings, chosen.labels, args))
    print(f"{text}\n\n{workdir / 'tsne.png'}")


def _common_images(students: Mapping[str, epath.Path]) -> ImageSet:
    """Returns the test images of the students' runs, which must be the same for all."""
    asked = {name: _test_images(stage) for name, stage in students.items()}
    # The runs of one table name the same images, which are then read once.
    read = {(source, split): source.load(split) for source, split in set(asked.values())}
    (first, images), *others = ((name, read[what]) for name, what in asked.items())
    for name, other in others:
        if other.fingerprint() != images.fingerprint():
            raise UsageError(
                f"{name} was tested on other images or classes than {first} ({_words(asked[name])},"
                f" not {_words(asked[first])}): give students of runs whose data.source and"
                " data.test_split hold the same images."
            )
    return images


def _words(source_and_split: tuple[Source, str]) -> str:
    source, split = source_and_split
    return f"{split!r} of {source}"


def _test_images(stage: epath.Path) -> tuple[Source, str]:
    """Returns source and split of the test images of the run that a stage belongs to."""
    path = stage.parent / "results.json"
    try:
        data = experiment(json.loads(path.read_text())["config"]).data
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{stage} belongs to no run, because {path} cannot be read ({error}): name the folder"
            " of a finished stage, such as runs/quickstart/student."
        ) from error
    if data.test_split is None:
        raise UsageError(f"{stage} belongs to a run without test images: name another stage.")
    return data.source, data.test_split


def choose(images: ImageSet, args: argparse.Namespace) -> ImageSet:
    """Returns some images of some classes, the same ones for each seed."""
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


def neighbor_fraction(embeddings: np.ndarray, labels: np.ndarray) -> float:
    """Returns the fraction of the rows whose nearest other row has the same label."""
    from sklearn.neighbors import NearestNeighbors

    found = NearestNeighbors(n_neighbors=1).fit(embeddings).kneighbors(return_distance=False)
    return float(np.mean(labels[found[:, 0]] == labels))


def colors(number: int) -> list[tuple[float, ...]]:
    """Returns different colors: Matplotlib's ten, or for more classes those of a rainbow."""
    from matplotlib import colormaps

    if number <= 10:
        return [colormaps["tab10"](i) for i in range(number)]
    return [colormaps["turbo"](position) for position in np.linspace(0, 1, number)]


def draw(
    embeddings: Mapping[str, np.ndarray], labels: np.ndarray, args: argparse.Namespace
) -> bytes:
    """Returns the picture as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from sklearn.manifold import TSNE

    classes = np.unique(labels)
    perplexity = min(args.perplexity, (len(labels) - 1) / 3)
    figure = Figure(figsize=(4 * len(embeddings), 4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (name, rows) in zip(
        figure.subplots(1, len(embeddings), squeeze=False)[0], embeddings.items(), strict=True
    ):
        points = TSNE(perplexity=perplexity, random_state=args.seed, init="pca").fit_transform(rows)
        for label, color in zip(classes, colors(len(classes)), strict=True):
            axes.scatter(*points[labels == label].T, s=8, color=color, label=str(label))
        axes.set(title=name, xticks=[], yticks=[])
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", title="class")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


if __name__ == "__main__":
    sys.exit(main())
