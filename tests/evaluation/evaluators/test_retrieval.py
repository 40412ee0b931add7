import dataclasses

import numpy as np
import pytest
from evaluation import small_context

from kd_jax.core.errors import UsageError
from kd_jax.data import ImageSet
from kd_jax.evaluation import EVALUATORS, recall_at_k, retrieval

RNG = np.random.default_rng(1)
LABELS = (np.arange(37) % 6).astype(np.int32)
PATTERNS = RNG.integers(0, 150, (6, 3, 3, 1))
NOISY = PATTERNS[LABELS] + RNG.integers(0, 100, (37, 3, 3, 1))
IMAGES = ImageSet(NOISY.astype(np.uint8), LABELS, 6)
WEIGHTS = small_context.weights(9, 4)


def evaluator(**options):
    return EVALUATORS.get("retrieval")(**options)


@pytest.mark.parametrize(
    ("devices", "batch_size", "streamed"), [(1, 10, False), (8, 10, True), (8, 64, False)]
)
def test_recall_of_every_name(devices, batch_size, streamed):
    context, traces = small_context.make(IMAGES, devices, batch_size, streamed)
    evaluate = evaluator(ks=(1, 3)).build(context)
    metrics = evaluate(small_context.on_devices(context, WEIGHTS))
    assert evaluate(small_context.on_devices(context, WEIGHTS)) == metrics
    assert len(traces) == 1
    for name in small_context.NAMES:
        rows = small_context.embeddings(IMAGES.images, WEIGHTS[name])
        expected = recall_at_k(rows, LABELS, ks=(1, 3))
        assert metrics[name] == {k: expected[k] for k in ("recall_at_1", "recall_at_3")}
        assert 0.2 < metrics[name]["recall_at_1"] < 1
    assert metrics["student"] != metrics["teacher"]


def test_a_diverged_network_is_named():
    context, _ = small_context.make(IMAGES)
    weights = WEIGHTS | {"teacher": np.full((9, 4), np.nan, np.float32)}
    evaluate = evaluator().build(context)
    says = "Retrieval of test by teacher cannot be evaluated: embeddings has NaN or infinity in 37"
    with pytest.raises(UsageError, match=says):
        evaluate(small_context.on_devices(context, weights))


def test_impossible_options_are_refused():
    with pytest.raises(UsageError, match="split = 'tset' is unknown"):
        evaluator(split="tset")
    for ks in ((), (0, 1)):
        with pytest.raises(ValueError, match="ks must be one or more numbers"):
            evaluator(ks=ks)
    with pytest.raises(UsageError, match=r"ks = \(1, 37\) is impossible: choose 1 to 36"):
        evaluator(ks=(1, 37)).build(small_context.make(IMAGES)[0])


def rows_of(size, name, **filters):
    images = IMAGES.images
    if size is not None:
        images = np.asarray(small_context.reduced(images, size, **filters)).astype(np.uint8)
    return small_context.embeddings(images, WEIGHTS[name])


@pytest.mark.parametrize("mode", ["hr_lr", "lr_lr"])
def test_low_queries_against_a_sharp_or_low_gallery_of_another_network(mode):
    """Both networks have 4 outputs, so that scores between them exist; they mean nothing."""
    context, traces = small_context.make(IMAGES, devices=8)
    options = {"probe_sizes": (2,), "down": "box", "blur": 1.0}
    metrics = ("map_at_r", "recall")
    evaluate = evaluator(ks=(2,), mode=mode, gallery="teacher", metrics=metrics, **options).build(
        context
    )
    found = evaluate(small_context.on_devices(context, WEIGHTS))
    assert len(traces) == 1
    for name in small_context.NAMES:
        assert list(found[name]) == ["recall_at_2", "map_at_r", "recall_at_2_2", "map_at_r_2"]
        for size, end in ((None, ""), (2, "_2")):
            query = rows_of(size, name, down="box", blur=1.0)
            low = size if mode == "lr_lr" else None
            gallery = rows_of(low, "teacher", down="box", blur=1.0)
            expected = retrieval(query, LABELS, gallery, ks=[2], metrics=metrics)
            assert found[name][f"recall_at_2{end}"] == expected.recall_at[2]
            assert found[name][f"map_at_r{end}"] == pytest.approx(expected.map_at_r)


def test_the_gallery_of_a_network_that_is_not_evaluated():
    context, _ = small_context.make(IMAGES)
    predict = context.predict
    context = dataclasses.replace(
        context,
        names=("student",),
        predict=lambda *args: {"student": predict(*args)["student"]},
        networks=small_context.NAMES,
        outputs=predict,
    )
    evaluate = evaluator(ks=(1,), gallery="teacher").build(context)
    found = evaluate(small_context.on_devices(context, WEIGHTS))
    expected = retrieval(rows_of(None, "student"), LABELS, rows_of(None, "teacher"), ks=[1])
    assert found == {"student": {"recall_at_1": expected.recall_at[1]}}
    with pytest.raises(UsageError, match="gallery = 'techer' is unknown: choose one of teacher"):
        evaluator(gallery="techer").build(context)
    context = dataclasses.replace(context, networks=(), outputs=None)
    with pytest.raises(UsageError, match="gallery = 'teacher' is unknown: choose one of student"):
        evaluator(gallery="teacher").build(context)(small_context.on_devices(context, WEIGHTS))


def test_impossible_metrics_and_sizes_are_refused():
    with pytest.raises(UsageError, match="metrics = 'recal' is unknown"):
        evaluator(metrics=("recal",))
    with pytest.raises(ValueError, match="metrics must be one or more of recall, map_at_r"):
        evaluator(metrics=())
    with pytest.raises(UsageError, match="mode = 'low' is unknown"):
        evaluator(mode="low")
    context, _ = small_context.make(IMAGES, image_shape=(3, 3, 1))
    with pytest.raises(UsageError, match=r"probe_sizes = \(2, 4\) is impossible: choose 1 to 3"):
        evaluator(probe_sizes=(2, 4)).build(context)
    assert evaluator(metrics=("nmi", "recall")).headline == "recall_at_1"
    assert evaluator(metrics=("nmi",)).headline == "nmi"
