"""Tables: every network, and the names of the originals."""

import jax
import numpy as np
import pytest

from kd_jax import models
from kd_jax.pretrained.pytorch.fitting import Fit
from kd_jax.pretrained.pytorch.tables import FAMILIES


def is_ours(name):  # other tests register their own
    factory = models.NETWORKS.get(name)
    return getattr(factory, "func", factory).__module__.startswith("kd_jax.")


OURS = [
    *((name, {}) for name in models.names() if is_ours(name)),
    *((name, {"shortcut": "A"}) for name in ("resnet8", "resnet8x4", "resnet110_okddip")),
    ("resnet18", {"stem": "imagenet"}),
    ("wrn_50_2", {"stem": "imagenet"}),
]


@pytest.mark.parametrize(("network", "options"), OURS)
def test_names_of_every_network_are_read_back(original, network, options):
    tables, variables, files = original(network, width=0.1, **options)
    for table in tables:
        tensors = files[table.name]
        for other in tables:
            entries, _ = other.entries(variables)
            fit = Fit.of(other, entries, tensors)
            assert (fit.distance == 0) == (other is table)
        read = Fit.of(table, table.entries(variables)[0], tensors).variables("file", tensors)
        expected = variables
        if table.classifier is None:
            params = {k: v for k, v in variables["params"].items() if k != "classifier"}
            expected = {**variables, "params": params}
        else:
            assert table.num_classes(tensors) == 5
        assert table.channels(tensors) == 3
        jax.tree.map(np.testing.assert_array_equal, read, expected)


# Names in the originals' `state_dict()`, with the paths of these variables in Flax. Sources: the
# modules of the repositories that the tables name.
NAMES = [
    ("resnet20", {}, "resnet_downsample_fc", {
        "conv1.weight": "stem_conv/kernel",
        "bn1.running_var": "stem_norm/var",
        "layer1.2.conv2.weight": "stage1_block3/Conv_1/kernel",
        "layer2.0.downsample.0.weight": "stage2_block1/shortcut_conv/kernel",
        "layer3.0.downsample.1.running_mean": "stage3_block1/shortcut_norm/mean",
        "fc.bias": "classifier/bias",
    }),
    ("resnet56", {"shortcut": "A"}, "resnet_shortcut_linear", {
        "layer3.8.bn2.weight": "stage3_block9/BatchNorm_1/scale",
        "linear.weight": "classifier/kernel",
    }),
    ("resnet50", {}, "resnet_shortcut_linear", {
        "layer4.2.conv3.weight": "stage4_block3/Conv_2/kernel",
        "layer1.0.shortcut.1.bias": "stage1_block1/shortcut_norm/bias",
    }),
    ("resnet50_vggface2", {}, "vggface2_caffe", {
        "conv1_7x7_s2_bn.weight": "stem_norm/scale",
        "conv2_1_1x1_proj.weight": "stage1_block1/shortcut_conv/kernel",
        "conv4_6_1x1_reduce_bn.running_mean": "stage3_block6/BatchNorm_0/mean",
        "conv5_3_3x3.weight": "stage4_block3/Conv_1/kernel",
        "conv5_3_1x1_increase.weight": "stage4_block3/Conv_2/kernel",
        "classifier.weight": "classifier/kernel",
    }),
    ("wrn_40_2", {}, "wrn", {
        "conv1.weight": "stem_conv/kernel",
        "block1.layer.0.bn1.weight": "stem_norm/scale",
        "block1.layer.0.convShortcut.weight": "stage1_block1_shortcut/kernel",
        "block1.layer.0.bn2.bias": "stage1_block1_norm1/bias",
        "block1.layer.1.bn1.bias": "stage1_block1_norm2/bias",
        "block2.layer.0.bn1.running_var": "stage1_block6_norm2/var",
        "bn1.weight": "stage3_block6_norm2/scale",
    }),
    ("vgg13", {}, "vgg", {
        "block0.0.bias": "group1_conv1/bias",
        "block0.3.weight": "group1_conv2/kernel",
        "block4.4.running_mean": "group5_norm2/mean",
        "classifier.weight": "classifier/kernel",
    }),
    ("vgg16", {}, "vgg_torchvision_features", {
        "features.0.weight": "group1_conv1/kernel",
        "features.4.weight": "group1_norm2/scale",
        "features.7.weight": "group2_conv1/kernel",
        "features.24.weight": "group4_conv1/kernel",
        "features.40.weight": "group5_conv3/kernel",
        "features.41.running_var": "group5_norm3/var",
    }),
    ("vgg16_okddip", {}, "vgg_okddip", {
        "conv2.weight": "group1_conv2/kernel",
        "bn1.running_var": "group1_norm1/var",
        "layer1.3.weight": "group2_conv2/kernel",
        "layer4.7.bias": "group5_norm3/bias",
        "classifier.0.weight": "hidden1/kernel",
        "classifier.3.bias": "hidden2/bias",
        "classifier.6.weight": "classifier/kernel",
    }),
    ("vgg16_okddip", {}, "vgg_chenyaofo", {
        "features.40.weight": "group5_conv3/kernel",
        "classifier.3.weight": "hidden2/kernel",
        "classifier.6.bias": "classifier/bias",
    }),
    ("vgg11", {"pools": 5}, "vgg_kuangliu", {
        "features.26.weight": "group5_norm2/scale",
        "classifier.bias": "classifier/bias",
    }),
    ("resnet110_okddip", {}, "resnet_downsample_fc", {
        "layer3.11.conv3.weight": "stage3_block12/Conv_2/kernel",
        "layer1.0.downsample.0.weight": "stage1_block1/shortcut_conv/kernel",
        "fc.weight": "classifier/kernel",
    }),
    ("mobilenet_v2_half", {}, "mobilenet_v2", {
        "conv1.0.weight": "stem_conv/kernel",
        "blocks.0.0.conv.3.weight": "group1_block1/Conv_1/kernel",
        "blocks.3.2.conv.7.running_var": "group4_block3/BatchNorm_2/var",
        "conv2.1.bias": "last_norm/bias",
        "classifier.0.weight": "classifier/kernel",
    }),
    ("shufflenet_v1", {}, "shufflenet_v1", {
        "layer2.7.conv2.weight": "stage2_block8/Conv_1/kernel",
        "linear.bias": "classifier/bias",
    }),
    ("shufflenet_v2", {}, "shufflenet_v2", {
        "layer1.0.conv1.weight": "stage1_block1/left_conv1/kernel",
        "layer1.0.bn2.weight": "stage1_block1/left_norm2/scale",
        "layer1.0.conv5.weight": "stage1_block1/Conv_2/kernel",
        "layer1.1.conv1.weight": "stage1_block2/Conv_0/kernel",
        "conv2.weight": "last_conv/kernel",
    }),
    ("sphereface20", {}, "sphereface_clcarwin", {
        "conv1_1.bias": "stage1_conv/bias",
        "relu3_1.weight": "stage3_prelu/slope",
        "conv3_8.weight": "stage3_unit4/Conv_0/kernel",
        "relu3_9.weight": "stage3_unit4/PReLU_1/slope",
        "fc5.weight": "embedding/kernel",
        "fc6.weight": "classifier/kernel",
    }),
    ("sphereface64", {}, "sphereface_cosface", {
        "layer3.0.bias": "stage3_conv/bias",
        "layer3.17.conv1.weight": "stage3_unit16/Conv_0/kernel",
        "layer4.4.prelu2.weight": "stage4_unit3/PReLU_1/slope",
        "fc.bias": "embedding/bias",
    }),
]  # fmt: skip


@pytest.mark.parametrize(("network", "options", "table", "names"), NAMES)
def test_names_are_those_of_the_originals(original, network, options, table, names):
    tables, variables, _ = original(network, width=0.1, **options)
    (table,) = (t for t in tables if t.name == table)
    entries, _ = table.entries(variables)
    for name, path in names.items():
        assert "/".join(entries[name].path[1:]) == path
    assert entries[next(iter(entries))].path[0] in ("params", "batch_stats")


def test_every_family_has_tables():
    modules = {type(models.create(name, num_classes=2)) for name, _ in OURS}
    assert modules == set(FAMILIES)
