import dataclasses
import io
import pickle

import numpy as np
import pytest
from evaluation import small_context
from PIL import Image

from kd_jax.core.errors import UsageError
from kd_jax.evaluation import EVALUATORS, verification
from kd_jax.evaluation.faces import read_pairs

WEIGHTS = small_context.weights(14 * 12 * 3, 6)


def evaluator(faces, **options):
    pairs = {"pairs": str(faces / "pairs.txt"), "images": str(faces)}
    return EVALUATORS.get("verification")(**pairs | options)


def expected(pairs, weights, size, mode, protocol):
    """Returns the result of `verification` without an evaluator."""
    low = pairs.images
    if size is not None:
        low = np.asarray(small_context.reduced(low, size))
    sides = {
        "first": (low if mode == "lr_lr" else pairs.images)[pairs.first],
        "second": low[pairs.second],
    }
    sides |= {f"{name}_mirrored": side[:, :, ::-1] for name, side in sides.items()}
    rows = {name: small_context.embeddings(side, weights) for name, side in sides.items()}
    return verification(same=pairs.same, fold=pairs.fold, protocol=protocol, **rows)


@pytest.mark.parametrize(
    ("devices", "batch_size", "mode", "protocol"),
    [(1, 7, "hr_lr", "exact"), (8, 16, "lr_lr", "sphereface")],
)
def test_metrics_of_every_name_and_size(faces, devices, batch_size, mode, protocol):
    context, traces = small_context.make(devices=devices, batch_size=batch_size)
    options = {"probe_sizes": (4,), "mode": mode, "protocol": protocol}
    evaluate = evaluator(faces, **options).build(context)
    metrics = evaluate(small_context.on_devices(context, WEIGHTS))
    assert len(traces) == 1
    pairs = read_pairs(str(faces / "pairs.txt"), str(faces))
    names = [f"{m}{end}" for end in ("", "_4") for m in ("accuracy", "auc", "eer")]
    for name in small_context.NAMES:
        assert list(metrics[name]) == names
        for end, size in (("", None), ("_4", 4)):
            result = expected(pairs, WEIGHTS[name], size, mode, protocol)
            for metric in ("accuracy", "auc", "eer"):
                assert metrics[name][metric + end] == pytest.approx(getattr(result, metric), 1e-3)
    assert metrics["student"]["auc"] > 0.8
    assert metrics["student"] != metrics["teacher"]


def test_filters_and_a_threshold_of_other_pairs(faces):
    context, _ = small_context.make()
    filters = {"down": "none", "up": "bilinear", "blur": 0.7}
    names, pairs = ("student",), read_pairs(str(faces / "pairs.txt"), str(faces))
    context = dataclasses.replace(context, names=names)
    options = {"probe_sizes": (4,), "protocol": "plain", **filters}
    preset = {"threshold_pairs": str(faces / "pairs.txt")}
    weights = small_context.on_devices(context, WEIGHTS)
    folds, chosen, low = (
        evaluator(faces, **options, **more).build(context)(weights)["student"]
        for more in ({}, preset, {"threshold": -2.0})
    )
    low_images = np.asarray(small_context.reduced(pairs.images, 4, **filters))
    sides = pairs.images[pairs.first], low_images[pairs.second]
    rows = [small_context.embeddings(side, WEIGHTS["student"]) for side in sides]
    result = verification(*rows, pairs.same, pairs.fold, protocol="plain")
    assert folds["accuracy_4"] == pytest.approx(result.accuracy, 1e-3)
    # The threshold of the same pairs is the best for all of them.
    assert chosen["accuracy_4"] >= folds["accuracy_4"]
    assert chosen["auc_4"] == folds["auc_4"] == low["auc_4"]
    assert low["accuracy"] == low["accuracy_4"] == 0.5  # every pair is accepted


def test_packs(tmp_path):
    def png(seed):
        file = io.BytesIO()
        noise = np.random.default_rng(seed).integers(0, 256, (14, 12, 3), dtype=np.uint8)
        Image.fromarray(noise).save(file, "PNG")
        return file.getvalue()

    same = np.arange(40) % 2 == 0
    files = [png(k) for i, kind in enumerate(same) for k in (2 * i, 2 * i if kind else 2 * i + 1)]
    path = tmp_path / "lfw.bin"
    path.write_bytes(pickle.dumps((files, same)))
    context, _ = small_context.make()
    evaluate = EVALUATORS.get("verification")(str(path), size=(14, 10)).build(context)
    metrics = evaluate(small_context.on_devices(context, small_context.weights(14 * 10 * 3, 64)))
    assert metrics["student"]["accuracy"] == 1
    path.write_bytes(pickle.dumps((files, ~same & False)))
    with pytest.raises(UsageError, match="lfw cannot be evaluated: fold 0 has pairs of one kind"):
        EVALUATORS.get("verification")(str(path)).build(context)


def test_a_collapsed_network_is_named(faces):
    context, _ = small_context.make()
    evaluate = evaluator(faces).build(context)
    weights = WEIGHTS | {"teacher": np.zeros_like(WEIGHTS["teacher"])}
    with pytest.raises(UsageError, match="Verification of pairs by teacher cannot be evaluated: "):
        evaluate(small_context.on_devices(context, weights))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"mode": "lr"}, "mode = 'lr' is unknown: choose one of"),
        ({"protocol": "lfw"}, "protocol = 'lfw' is unknown: choose one of"),
        ({"size": (14,)}, "size must be a height and a width"),
        ({"probe_sizes": (0,)}, "probe_sizes must be 1 or more pixels"),
        ({"images": None}, "images must be the folder"),
        ({"pairs": "lfw.bin"}, "images must be the folder"),
        ({"down": "cubic"}, "down = 'cubic' is unknown"),
        ({"blur": -1.0}, "blur must be 0 to 100"),
        ({"threshold": 0.5, "protocol": "sphereface"}, "'sphereface' subtracts a mean"),
        ({"threshold": 0.5, "threshold_pairs": "p"}, "leave one out"),
    ],
)
def test_impossible_options_are_refused(faces, options, says):
    with pytest.raises(ValueError, match=says):
        evaluator(faces, **options)


@pytest.mark.parametrize(
    ("options", "image_shape", "says"),
    [
        ({"probe_sizes": (15,)}, None, "cannot be reduced to 15: choose 1 to 14"),
        ({"size": (12, 12)}, (14, 12, 3), "would be squeezed"),
        ({}, (14, 12, 1), "of pairs have 3 channels, but the training images 1"),
    ],
)
def test_images_that_do_not_fit_are_refused_before_training(faces, options, image_shape, says):
    context, _ = small_context.make(image_shape=image_shape)
    with pytest.raises(UsageError, match=says):
        evaluator(faces, **options).build(context)
