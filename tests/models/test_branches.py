import functools

import jax
import numpy as np
import pytest
from compiling import FAST

from kd_jax import models
from kd_jax.core.errors import UsageError
from kd_jax.models.resnet import ResNet
from kd_jax.models.shufflenet import ShuffleNetV1, ShuffleNetV2
from kd_jax.models.vgg import VGG
from kd_jax.models.wide_resnet import WideResNet


def _paths(variables):
    leaves, _ = jax.tree_util.tree_flatten_with_path(variables)
    return {tuple(entry.key for entry in path): leaf for path, leaf in leaves}


@pytest.mark.parametrize(
    ("network", "last"),
    [
        (ResNet(3, (1, 1), (2, 4), stem_channels=2), "stage2"),
        (WideResNet(3, depth=10, width=0.1), "stage3"),
        (VGG(3, width=0.02, hidden=(4,)), "group5"),
        (ShuffleNetV1(3, blocks=(1, 1), width=0.1), "stage2"),
        (ShuffleNetV2(3, blocks=(1, 1), width=0.1), ("stage2", "last")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_further_branches_add_copies_of_the_last_stage_and_the_classifier(traced, network, last):
    assert network == network.clone(branches=1)
    alone, variables = traced(network, 2, 8, 8, 3)
    assert alone.branches == ()
    expected = _paths(variables)
    last = (*([last] if isinstance(last, str) else last), "hidden", "classifier")
    for (kind, module, *rest), leaf in tuple(expected.items()):
        if module.startswith(last):
            for branch in (2, 3):
                expected[kind, f"branch{branch}_{module}", *rest] = leaf

    outputs, variables = traced(network.clone(branches=3), 2, 8, 8, 3)
    assert _paths(variables) == expected
    assert outputs.replace(branches=()) == alone
    assert outputs.branches == (alone,) * 3  # shapes and dtypes


def test_branches_start_from_one_map_and_differ():
    network = ResNet(3, (1, 1), (2, 4), stem_channels=2)
    images = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))

    @functools.partial(jax.jit, compiler_options=FAST)
    def both(key):
        networks = network, network.clone(branches=2)
        return [n.init_with_output(key, images, train=False) for n in networks]

    (alone, own), (outputs, variables) = both(jax.random.key(1))
    first, second = outputs.branches
    for top in (outputs, first):
        jax.tree.map(np.testing.assert_array_equal, top.replace(branches=()), alone)
    np.testing.assert_array_equal(first.feature_maps[0], second.feature_maps[0])
    np.testing.assert_array_equal(first.blocks[0], second.blocks[0])
    np.testing.assert_array_equal(second.feature_maps[-1], second.blocks[-1])
    for field in ("logits", "embedding", "feature_maps", "preactivations", "blocks"):
        one, other = (jax.tree.leaves(getattr(branch, field))[-1] for branch in (first, second))
        assert (one != other).any()
    after = _paths(variables)
    for path, leaf in _paths(own).items():
        np.testing.assert_array_equal(after[path], leaf)
    last = second.feature_maps[-1].mean((1, 2))
    params = variables["params"]["branch2_classifier"]
    expected = np.asarray(last) @ np.asarray(params["kernel"]) + np.asarray(params["bias"])
    np.testing.assert_allclose(second.logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("branches", [0, 1.5])
@pytest.mark.parametrize("name", ["resnet8", "vgg8", "wrn_16_1", "shufflenet_v1", "shufflenet_v2"])
def test_the_number_of_branches_is_checked(name, branches):
    with pytest.raises(UsageError, match=f"branches = {branches} is not a whole number"):
        models.create(name, num_classes=3, branches=branches)
