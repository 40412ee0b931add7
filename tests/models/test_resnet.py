import functools

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import models
from kd_jax.models.resnet import Bottleneck, ResNet, _caffe_stem


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8])
def test_caffes_pool_has_no_border_and_incomplete_last_windows(size):
    # torch.nn.MaxPool2d(3, 2, ceil_mode=True) of the stem, which is the identity here.
    x = np.float32(np.random.default_rng(size).uniform(0.1, 1, (1, size, size + 1, 2)))

    def identity(*_, **__):
        return lambda x: jnp.asarray(x)

    got = _caffe_stem(x, 2, identity, identity)
    rows, columns = (max(-(-(n - 3) // 2), 0) + 1 for n in x.shape[1:3])
    expected = [
        [x[0, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((0, 1)) for j in range(columns)]
        for i in range(rows)
    ]
    np.testing.assert_array_equal(got[0], expected)


@pytest.mark.parametrize(
    ("options", "inner"), [({}, [(8, 8), (8, 4)]), ({"stride_first": True}, [(8, 4), (4, 4)])]
)
def test_stride_of_bottlenecks(traced, options, inner):
    block = functools.partial(Bottleneck, **options)
    network = ResNet(2, (1, 1), (4, 4), block, stem_channels=4)
    sizes = []

    def record(next_method, args, kwargs, context):
        result = next_method(*args, **kwargs)
        if isinstance(context.module, models.Conv) and "stage2" in context.module.path[0]:
            sizes.append((args[0].shape[1], result.shape[1]))
        return result

    with nn.intercept_methods(record):
        traced(network, 1, 8, 8, 3)
    assert sizes == [*inner, (4, 4), (8, 4)]
