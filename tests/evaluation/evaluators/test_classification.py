import numpy as np
import pytest
from evaluation import small_context

from kd_jax.core.errors import UsageError
from kd_jax.data import ImageSet
from kd_jax.evaluation import EVALUATORS

RNG = np.random.default_rng(0)
IMAGES = ImageSet(
    RNG.integers(0, 256, (37, 2, 2, 1), dtype=np.uint8), RNG.integers(0, 4, 37).astype(np.int32), 4
)
WEIGHTS = small_context.weights(4, 4)


def evaluator(**options):
    return EVALUATORS.get("classification")(**options)


@pytest.mark.parametrize(
    ("devices", "batch_size", "streamed"),
    [(1, 37, False), (1, 10, True), (8, 8, False), (8, 64, True)],
)
def test_every_image_counts_once(devices, batch_size, streamed):
    context, traces = small_context.make(IMAGES, devices, batch_size, streamed)
    evaluate = evaluator(top_k=(1, 2, 4)).build(context)
    metrics = evaluate(small_context.on_devices(context, WEIGHTS))
    assert evaluate(small_context.on_devices(context, WEIGHTS)) == metrics
    assert len(traces) == 1
    assert list(metrics) == ["student", "teacher"]
    for name, result in metrics.items():
        logits = small_context.embeddings(IMAGES.images, WEIGHTS[name])
        ranks = (logits > logits[np.arange(37), IMAGES.labels][:, None]).sum(1)
        assert result["accuracy"] == result["top_1"] == np.mean(ranks == 0)
        assert result["top_2"] == np.mean(ranks < 2)
        assert result["top_4"] == 1
        log_sum = np.log(np.exp(logits).sum(1))
        expected = np.mean(log_sum - logits[np.arange(37), IMAGES.labels])
        np.testing.assert_allclose(result["cross_entropy"], expected, rtol=1e-5)


def test_a_network_of_nan_is_never_right():
    context, _ = small_context.make(IMAGES)
    evaluate = evaluator(top_k=(4,)).build(context)
    weights = WEIGHTS | {"teacher": np.full((4, 4), np.nan, np.float32)}
    metrics = evaluate(small_context.on_devices(context, weights))
    assert metrics["teacher"]["accuracy"] == metrics["teacher"]["top_4"] == 0
    assert np.isnan(metrics["teacher"]["cross_entropy"])
    assert metrics["student"]["top_4"] == 1


def test_top_k_is_an_option():
    context, _ = small_context.make(IMAGES)
    metrics = evaluator().build(context)(small_context.on_devices(context, WEIGHTS))
    assert set(metrics["student"]) == {"accuracy", "cross_entropy"}


def test_impossible_options_are_refused():
    with pytest.raises(UsageError, match="split = 'tset' is unknown: choose one of test"):
        evaluator(split="tset")
    with pytest.raises(ValueError, match="top_k must be 1 or more"):
        evaluator(top_k=(0, 5))
    context, _ = small_context.make(IMAGES)
    evaluate = evaluator(top_k=(5,)).build(context)
    with pytest.raises(
        UsageError, match=r"top_k = \(5,\) is impossible: choose 1 to 4, the number"
    ):
        evaluate(small_context.on_devices(context, WEIGHTS))
