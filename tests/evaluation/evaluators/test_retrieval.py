import numpy as np
import pytest
from evaluation import small_context

from kd_jax.core.errors import UsageError
from kd_jax.data import ImageSet
from kd_jax.evaluation import EVALUATORS, recall_at_k

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
