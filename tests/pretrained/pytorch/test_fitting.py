"""Files that fit a network, and what is said of those that do not."""

import jax
import ml_dtypes
import numpy as np
import pytest
import small_stage  # noqa: F401 - registers the network "tiny"

from kd_jax.core.errors import UsageError
from kd_jax.pretrained import import_weights
from kd_jax.pretrained.pytorch import read_network
from kd_jax.pretrained.pytorch.tables import FOREIGN


def written(tmp_path, write, tensors):
    path = tmp_path / "weights.pth"
    path.write_bytes(write.torch_file(tensors))
    return path


def says(path, *arguments, **options):
    with pytest.raises(UsageError) as error:
        import_weights(path, *arguments, **options)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


@pytest.fixture(scope="module")
def small(original):
    """Entries of a file for `resnet8` of a quarter of the width, with both names."""
    return original("resnet8", width=0.25)[2]


def test_what_does_not_fit_is_named(tmp_path, write, small):
    tensors = dict(small["resnet_downsample_fc"])
    del tensors["bn1.weight"]
    tensors["extra.weight"] = np.zeros(3, np.float32)
    tensors["conv1.weight"] = tensors["conv1.weight"][:, :, :1]
    path = written(tmp_path, write, tensors)
    text = says(path, "resnet8", options={"width": 0.25})
    assert f"{path} does not fit resnet8 with width = 0.25; by the nearest table," in text
    assert "resnet_downsample_fc (RepDistiller's resnet.py, chenyaofo/pytorch-cifar-models)" in text
    assert "it lacks bn1.weight; it has in addition extra.weight; it has other shapes" in text
    assert "conv1.weight [4, 3, 1, 3] instead of [4, 3, 3, 3]: choose the network" in text
    assert "it lacks bn1.weight, layer1.1.bn1.bias, layer1.1.bn1.running_mean and 28 more" in says(
        path, "resnet14", options={"width": 0.25}
    )


@pytest.mark.parametrize(
    ("change", "network", "options", "remedy"),
    [
        ({"shortcut": "A"}, "resnet8", {}, "set the option shortcut = 'A'"),
        ({}, "resnet8", {"shortcut": "A"}, "set the option shortcut = 'B'"),
        ({}, "resnet8", {"num_classes": 7}, "leave out num_classes, which "),
        ({}, "resnet20", {}, "choose the network and the options of the file instead of resnet20"),
    ],
)
def test_the_remedy_is_named(tmp_path, write, original, change, network, options, remedy):
    _, _, files = original("resnet8", width=0.25, **change)
    given = {"width": 0.25, **{k: v for k, v in options.items() if k != "num_classes"}}
    for tensors in files.values():
        path = written(tmp_path, write, tensors)
        text = says(path, network, options=given, num_classes=options.get("num_classes"))
        assert remedy in text


def test_the_stem_of_torchvision_is_named(tmp_path, write, original):
    _, _, files = original("resnet18", width=0.1, stem="imagenet")
    path = written(tmp_path, write, files["resnet_downsample_fc"])
    assert "set the option stem = 'imagenet'" in says(path, "resnet18", options={"width": 0.1})


def test_the_number_of_classes_is_that_of_the_file(tmp_path, write, small):
    for name, tensors in small.items():
        path = written(tmp_path, write, tensors)
        for classes in (None, 5):
            found = read_network(path, "resnet8", options={"width": 0.25}, num_classes=classes)
            assert (found.table.name, found.num_classes, found.channels) == (name, 5, 3)


def test_counters_may_be_missing_but_only_norms_have_them(tmp_path, write, small):
    tensors = small["resnet_downsample_fc"]
    without = {k: v for k, v in tensors.items() if not k.endswith("num_batches_tracked")}
    read_network(written(tmp_path, write, without), "resnet8", options={"width": 0.25})
    path = written(tmp_path, write, {**without, "fc.num_batches_tracked": np.array(1)})
    assert "in addition fc.num_batches_tracked" in says(path, "resnet8", options={"width": 0.25})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.float32([1, np.nan, 2, 3]), "holds bn1.weight with numbers that are not finite"),
        (np.float64([1, 1e300, 2, 3]), "holds bn1.weight with numbers that are not finite"),
        (np.int8([1, 2, 3, 4]), "holds bn1.weight as int8: take weights that are not quantized"),
    ],
)
def test_numbers_must_be_usable(tmp_path, write, small, value, text):
    path = written(tmp_path, write, {**small["resnet_downsample_fc"], "bn1.weight": value})
    assert text in says(path, "resnet8", options={"width": 0.25})


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_precisions_become_float32(tmp_path, write, small, dtype):
    dtype = np.dtype(getattr(ml_dtypes, dtype, dtype))
    tensors = {
        k: v.astype(dtype) if v.dtype == np.float32 else v
        for k, v in small["resnet_shortcut_linear"].items()
    }
    path = written(tmp_path, write, tensors)
    variables = import_weights(path, "resnet8", options={"width": 0.25})
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(np.float32)}
    kernel = variables["params"]["stem_conv"]["kernel"]
    expected = tensors["conv1.weight"].transpose(2, 3, 1, 0).astype(np.float32)
    np.testing.assert_array_equal(kernel, expected)


def test_statistics_of_batch_norm_are_imported(tmp_path, write, small):
    tensors = small["resnet_downsample_fc"]
    variables = import_weights(
        written(tmp_path, write, tensors), "resnet8", options={"width": 0.25}
    )
    norm = variables["batch_stats"]["stage2_block1"]["BatchNorm_1"]
    np.testing.assert_array_equal(norm["mean"], tensors["layer2.0.bn2.running_mean"])
    np.testing.assert_array_equal(norm["var"], tensors["layer2.0.bn2.running_var"])


def test_a_network_without_a_table_is_named(tmp_path, write, small):
    path = written(tmp_path, write, small["resnet_downsample_fc"])
    assert "network = 'tiny' is not in any table" in says(path, "tiny")
    text = says(path, "resnet8", options={"width": 0.25, "branches": 2})
    assert "no PyTorch original with these options (it has branch2_" in text
    assert "network = 'resnet9' is unknown" in says(path, "resnet9")


@pytest.mark.parametrize("network", FOREIGN, ids=lambda network: network.name)
def test_similar_networks_are_named_with_their_difference(tmp_path, write, network):
    array = np.zeros(3, np.float32)
    path = written(tmp_path, write, dict.fromkeys(network.entries, array))
    text = says(path, "vgg8", num_classes=3)
    assert f"is {network.name}, which kd_jax does not have: in comparison with vgg8 it has" in text
    assert network.difference in text


def test_features_of_torchvisions_vgg(tmp_path, write, original):
    _, variables, files = original("vgg11", width=0.05)
    tensors = files["vgg_torchvision_features"]
    path = written(tmp_path, write, {**tensors, "classifier.6.bias": np.zeros(1000, np.float32)})
    options = {"width": 0.05}
    assert "no classifier for vgg11: give num_classes" in says(path, "vgg11", options=options)
    text = says(path, "vgg13", options=options, num_classes=4)
    assert "by the nearest table, vgg_torchvision_features (torchvision's VGGs with" in text
    read, again = (import_weights(path, "vgg11", options=options, num_classes=4) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, read, again)
    head = read["params"].pop("classifier")
    assert head["kernel"].shape == (26, 4)
    assert 0 < np.std(head["kernel"]) < 0.1
    del variables["params"]["classifier"]
    jax.tree.map(np.testing.assert_array_equal, read, variables)


@pytest.mark.parametrize(
    ("table", "options", "advice"),
    [
        ("vgg_chenyaofo", {"pools": 5, "hidden": (512, 512)}, "pools = 5 and hidden = (512, 512)."),
        ("vgg_okddip", {"pools": 5, "hidden": (512, 512), "width": 0.1}, ""),
        ("vgg_kuangliu", {"pools": 5}, "set the option pools = 5."),
    ],
)
def test_vggs_with_five_max_pools(tmp_path, write, original, table, options, advice):
    _, variables, files = original("vgg11" if advice else "vgg16", **options)
    path = written(tmp_path, write, files[table])
    network = "vgg11" if advice else "vgg16"
    jax.tree.map(
        np.testing.assert_array_equal, import_weights(path, network, options=options), variables
    )
    assert says(path, network).endswith(advice)


def test_biases_that_the_network_does_not_have_must_be_0(tmp_path, write, original):
    _, variables, files = original("sphereface20", width=0.05, size=(16, 16))
    tensors = files["sphereface_clcarwin"]
    for value in (0, 1):
        tensors["conv1_2.bias"] = np.full(3, value, np.float32)
        path = written(tmp_path, write, tensors)
        options = {"options": {"width": 0.05}, "size": (16, 16)}
        if value:
            assert "has conv1_2.bias, which is not 0, but" in says(path, "sphereface20", **options)
        else:
            read = import_weights(path, "sphereface20", bgr=False, **options)
            jax.tree.map(np.testing.assert_array_equal, read, variables)


def test_bgr_needs_three_channels(tmp_path, write, original):
    _, _, files = original("resnet8", width=0.25, channels=1)
    path = written(tmp_path, write, files["resnet_downsample_fc"])
    found = read_network(path, "resnet8", options={"width": 0.25})
    assert found.channels == 1
    text = says(path, "resnet8", options={"width": 0.25}, bgr=True)
    assert "bgr needs images of 3 channels, but" in text
