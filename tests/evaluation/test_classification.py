import json

import numpy as np
import pytest
from sklearn import metrics

from kd_jax.evaluation.classification import classification, confusion_png

LOGITS = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
LABELS = np.random.default_rng(1).integers(0, 5, 200)  # no image has the class 5


def test_it_agrees_with_scikit_learn():
    result = classification(LOGITS, LABELS, top_k=(1, 2, 5))
    predicted = LOGITS.argmax(1)
    assert result.accuracy == metrics.accuracy_score(LABELS, predicted)
    for k in (1, 2, 5):
        known = metrics.top_k_accuracy_score(LABELS, LOGITS, k=k, labels=range(6))
        assert result.top_k[k] == known
    confusion = metrics.confusion_matrix(LABELS, predicted, labels=range(6))
    np.testing.assert_array_equal(result.confusion, confusion)
    recall = metrics.recall_score(LABELS, predicted, average=None, labels=range(5))
    assert result.per_class == (*recall, None)
    assert result.images == 200


def test_ties_go_to_the_first_class():
    result = classification(np.zeros((2, 3)), [0, 2], top_k=(1, 2, 3))
    assert (result.accuracy, result.top_k) == (0.5, {1: 0.5, 2: 0.5, 3: 1.0})


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_image_without_finite_logits_is_wrong(bad):
    result = classification([[bad, 0.0], [1.0, 0.0]], [0, 0], top_k=(1, 2))
    assert (result.accuracy, result.top_k[2]) == (0.5, 0.5)
    assert result.confusion.tolist() == [[1, 1], [0, 0]]


def test_k_beyond_the_classes_is_left_out():
    assert set(classification(LOGITS, LABELS, top_k=(1, 7)).top_k) == {1}


@pytest.mark.parametrize(
    ("logits", "labels", "top_k", "says"),
    [
        (LOGITS, LABELS[1:], (1,), r"logits must be \[N, C\] and labels \[N\]"),
        (LOGITS[:0], LABELS[:0], (1,), "logits must be"),
        (LOGITS[:, :4], LABELS, (1,), "labels go from 0 to 4, but the network has 4 classes"),
        (LOGITS, LABELS, (0,), "top_k must be 1 or more"),
    ],
)
def test_errors(logits, labels, top_k, says):
    with pytest.raises(ValueError, match=says):
        classification(logits, labels, top_k=top_k)


def test_the_result_is_json_and_a_picture():
    result = classification(LOGITS, LABELS)
    found = json.loads(json.dumps(result.to_json()))
    assert found["top_5"] == result.top_k[5]
    assert np.sum(found["confusion"]) == 200
    assert confusion_png(result.confusion, "title").startswith(b"\x89PNG")
