import functools

import numpy as np
import pytest
from evaluation import small_context
from PIL import Image

from kd_jax.core.errors import UsageError
from kd_jax.evaluation import EVALUATORS, identification
from kd_jax.evaluation.evaluators import identification as module
from kd_jax.evaluation.faces import read_gallery, read_scface

WEIGHTS = small_context.weights(14 * 12 * 3, 6)


def evaluator(faces, **options):
    return EVALUATORS.get("identification")(str(faces), **options)


@pytest.mark.parametrize(("devices", "batch_size"), [(1, 7), (8, 16)])
def test_metrics_of_every_name_and_size(faces, devices, batch_size):
    context, traces = small_context.make(devices=devices, batch_size=batch_size)
    options = {"identities": 6, "gallery_images": 2, "seed": 3, "probe_sizes": (4,)}
    evaluate = evaluator(faces, ranks=(1, 5, 50), **options).build(context)
    metrics = evaluate(small_context.on_devices(context, WEIGHTS))
    assert len(traces) == 1
    sets = read_gallery(str(faces), None, 6, 3, 2)
    probes = sets.probes["probes"]
    low = small_context.reduced(probes.images, 4)
    for name in small_context.NAMES:
        assert list(metrics[name]) == ["rank_1", "rank_5", "rank_1_4", "rank_5_4"]
        for end, images in (("", probes.images), ("_4", low)):
            cmc = identification(
                small_context.embeddings(sets.gallery.images, WEIGHTS[name]),
                sets.gallery.labels,
                small_context.embeddings(images, WEIGHTS[name]),
                probes.labels,
                ranks=(1, 5),
            ).cmc
            assert [metrics[name][f"rank_{k}{end}"] for k in (1, 5)] == [cmc[1], cmc[5]]
    assert metrics["student"]["rank_1"] > 0.4
    assert metrics["student"] != metrics["teacher"]


def test_a_closed_set_divided_by_a_fraction_and_ranked_by_identities(faces):
    """HORKD, Table 3: top-1 and top-5 error of a closed set."""
    context, _ = small_context.make()
    filters = {"down": "box", "up": "bilinear", "blur": 0.0}
    options = {"probe_fraction": 0.4, "ranked": "identities", "probe_sizes": (4,), **filters}
    evaluate = evaluator(faces, ranks=(1, 5, 9), **options).build(context)
    metrics = evaluate(small_context.on_devices(context, WEIGHTS))["student"]
    assert list(metrics) == ["rank_1", "rank_5", "rank_1_4", "rank_5_4"]  # there are 8 identities
    sets = read_gallery(str(faces), probe_fraction=0.4)
    probes = sets.probes["probes"]
    assert (len(sets.gallery), len(probes)) == (24, 16)
    low = small_context.reduced(probes.images, 4, **filters)
    for end, images in (("", probes.images), ("_4", low)):
        cmc = identification(
            small_context.embeddings(sets.gallery.images, WEIGHTS["student"]),
            sets.gallery.labels,
            small_context.embeddings(images, WEIGHTS["student"]),
            probes.labels,
            ranks=(1, 5),
            ranked="identities",
        ).cmc
        assert [metrics[f"rank_{k}{end}"] for k in (1, 5)] == [cmc[1], cmc[5]]


def test_all_identities_by_default(faces):
    context, _ = small_context.make(image_shape=(28, 24, 3))
    evaluate = evaluator(faces).build(context)
    metrics = evaluate(small_context.on_devices(context, WEIGHTS))
    assert list(metrics["teacher"]) == ["rank_1", "rank_5"]  # the gallery has 8 images


def test_scface(tmp_path, monkeypatch):
    persons = (2, 7, 30, 31, 77, 130)
    monkeypatch.setattr(module, "read_scface", functools.partial(read_scface, identities=persons))
    rng = np.random.default_rng(1)
    cameras = [f"cam{c}_{d}" for c in range(1, 6) for d in (1, 2, 3)]
    for person in persons:
        face = rng.integers(0, 256, (4, 4, 3))
        for kind in ("frontal", *cameras):
            noise = 200 if kind.endswith("_1") else 0
            image = np.clip(face + rng.normal(0, noise, face.shape), 0, 255).astype(np.uint8)
            Image.fromarray(image).save(tmp_path / f"{person:03d}_{kind}.png")
    context, _ = small_context.make(devices=8)
    evaluate = evaluator(tmp_path, layout="scface", ranks=(1,), probe_sizes=(4,)).build(context)
    metrics = evaluate(small_context.on_devices(context, small_context.weights(48, 16)))
    ends = ("4.2m", "4.2m_4", "2.6m", "2.6m_4", "1.0m", "1.0m_4")
    assert list(metrics["student"]) == [f"rank_1_{end}" for end in ends]
    assert metrics["student"]["rank_1_1.0m"] == 1
    assert metrics["student"]["rank_1_4.2m"] < 0.8


def test_a_collapsed_network_is_named(faces):
    context, _ = small_context.make()
    evaluate = evaluator(faces).build(context)
    weights = WEIGHTS | {"teacher": np.zeros_like(WEIGHTS["teacher"])}
    with pytest.raises(UsageError, match="by teacher cannot be evaluated: gallery has 8 of 8 rows"):
        evaluate(small_context.on_devices(context, weights))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"layout": "folder"}, "layout = 'folder' is unknown: choose one of folders, scface"),
        ({"layout": "scface", "seed": 1}, "not used by the layout 'scface'"),
        ({"ranks": ()}, "ranks must be one or more"),
        ({"ranks": (0,)}, "ranks must be one or more"),
        ({"min_images": 0}, "min_images must be 1 or more"),
        ({"ranked": "faces"}, "ranked = 'faces' is unknown"),
        ({"probe_fraction": 1.0}, "probe_fraction must be 0 or more"),
        ({"probe_fraction": 0.2, "gallery_images": 2}, "probe_fraction replaces gallery_images"),
        ({"down": "cubic"}, "down = 'cubic' is unknown"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"probe_sizes": (0,)}, "probe_sizes must be 1 or more pixels"),
        ({"size": (12,)}, "size must be a height and a width"),
    ],
)
def test_impossible_options_are_refused(faces, options, says):
    with pytest.raises(ValueError, match=says):
        evaluator(faces, **options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"identities": 9}, "9 identities with 1 gallery images and a probe are asked for, but 8"),
        ({"identities": 1}, "known images of 1 identities: use two identities or more"),
        ({"ranks": (9,)}, "ranks up to the number of known images"),
        ({"probe_sizes": (15,)}, "cannot be reduced to 15"),
        ({"size": (12, 12)}, "would be squeezed"),
    ],
)
def test_images_that_do_not_fit_are_refused_before_training(faces, options, says):
    context, _ = small_context.make(image_shape=(14, 12, 3))
    with pytest.raises(UsageError, match=says):
        evaluator(faces, **options).build(context)
