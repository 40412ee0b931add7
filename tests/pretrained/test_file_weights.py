"""First weights from a file: of a PyTorch original, and under the names of Flax."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_stage  # noqa: F401 - registers the network "tiny"
from etils import epath
from small_weights import write_flax, write_pytorch

from kd_jax.core.devices import data_mesh, replicated
from kd_jax.core.errors import UsageError
from kd_jax.core.hashing import content_hash
from kd_jax.pretrained import FileWeights, NetworkInfo

WHOLE = replicated(data_mesh(1))
RESNET = NetworkInfo(
    "resnet8", {"width": 0.25, "shortcut": "A"}, 10, (8, 8), "bicubic", (0.5,) * 3, (0.25,) * 3
)
TINY = NetworkInfo("tiny", {}, 10, (8, 8), "bicubic", (0.5,), (0.25,))


def weights(path, info=RESNET, *, channels=3, head=True, bgr=None, **changes):
    info = dataclasses.replace(info, **changes)
    return FileWeights(epath.Path(path), info, channels, head, bgr).completed()


def equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def template(variables):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), variables)


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    """Path of a PyTorch file, and the variables in Flax."""
    path = tmp_path_factory.mktemp("weights") / "resnet8.npz"
    return path, write_pytorch(path, **RESNET.options)[1]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Path of a file with the names of Flax, and the variables."""
    path = tmp_path_factory.mktemp("weights") / "tiny.npz"
    return path, write_flax(path)[1]


def test_both_kinds_of_files_are_read(resnet, tiny):
    for (path, variables), info in ((resnet, RESNET), (tiny, TINY)):
        found = weights(path, info, channels=len(info.mean))
        assert found.info == info
        read = found.read(template(variables), WHOLE)
        equal(read, variables)
        assert all(leaf.sharding == WHOLE for leaf in jax.tree.leaves(read))


def test_a_network_of_the_library_is_read_by_the_names_of_flax_too(tmp_path):
    path = tmp_path / "resnet8.npz"
    _, variables = write_flax(path, "resnet8", shape=(8, 8, 3), **RESNET.options)
    equal(weights(path).read(template(variables), WHOLE), variables)


def test_the_number_of_classes_is_that_of_the_file(resnet, tiny):
    for (path, _), info in ((resnet, RESNET), (tiny, TINY)):
        found = weights(path, info, channels=len(info.mean), num_classes=3)
        assert found.info.num_classes == 10


def test_the_classifier_may_be_left_out(resnet, tiny):
    for (path, variables), info in ((resnet, RESNET), (tiny, TINY)):
        found = weights(path, info, channels=len(info.mean), head=False, num_classes=3)
        assert found.info.num_classes == 3
        features = variables["params"]["classifier"]["kernel"].shape[0]
        head = {"kernel": jnp.zeros((features, 3)), "bias": jnp.zeros(3)}
        fresh = {**variables, "params": {**variables["params"], "classifier": head}}
        equal(found.read_without_head(fresh, WHOLE), fresh)


def test_a_file_without_a_classifier_starts_without_it(tmp_path, resnet):
    path, variables = tmp_path / "headless.npz", resnet[1]
    with np.load(resnet[0]) as file:
        np.savez(path, **{name: file[name] for name in file.files if "linear" not in name})
    with pytest.raises(UsageError, match=r"it lacks .*or set init_head = False"):
        weights(path)
    equal(weights(path, head=False).read_without_head(variables, WHOLE), variables)


def test_torchvisions_vgg_has_no_classifier_that_fits(tmp_path):
    path = tmp_path / "vgg.npz"
    write_pytorch(path, "vgg11", width=0.05, shape=(32, 32, 3))
    options = {"name": "vgg11", "options": {"width": 0.05}, "size": (32, 32), "mean": (), "std": ()}
    with pytest.raises(UsageError, match="no classifier that fits vgg11: set init_head = False"):
        weights(path, **options)
    # torchvision's own normalization: torchvision.models.VGG11_BN_Weights.
    info = weights(path, head=False, **options).info
    assert (info.mean, info.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert weights(path, head=False, **{**options, "mean": (0.1,) * 3}).info.mean == (0.1,) * 3


def test_weights_see_bgr_where_the_originals_do(tmp_path):
    path = tmp_path / "sphereface.npz"
    _, variables = write_pytorch(path, "sphereface20", width=0.05, shape=(16, 16, 3), table=0)
    # clcarwin/sphereface_pytorch reads images by OpenCV: (image - 127.5) / 128.
    options = {"name": "sphereface20", "options": {"width": 0.05}, "size": (16, 16), "mean": ()}
    for bgr, step in ((None, -1), (True, -1), (False, 1)):
        found = weights(path, bgr=bgr, **options)
        assert found.info.mean == (0.5,) * 3
        np.testing.assert_allclose(np.array(found.info.std) * 255, 128, rtol=1e-5)
        read = found.read(template(variables), WHOLE)["params"]["stage1_conv"]["kernel"]
        np.testing.assert_array_equal(
            read, variables["params"]["stage1_conv"]["kernel"][:, :, ::step]
        )


def test_an_unknown_normalization_stays_empty(resnet):
    assert weights(resnet[0], mean=(), std=()).info.mean == ()


def test_a_resumed_run_recognizes_the_content(resnet):
    path, variables = resnet
    found = weights(path).provenance(variables, epath.Path("/elsewhere"))
    assert found == {"file": "resnet8.npz", "hash": content_hash(variables)}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"channels": 1}, "sees images of 3 channels, but these images have 1"),
        ({"options": {"width": 0.25}}, "set the option shortcut = 'A'"),
        ({"name": "tiny", "options": {}}, "does not fit tiny: it lacks .*path of its variable"),
        ({"name": "tiny", "options": {}, "bgr": True}, "no file of a PyTorch original, which bgr"),
    ],
)
def test_files_that_do_not_fit_are_one_sentence(resnet, options, says):
    with pytest.raises(UsageError, match=says) as error:
        weights(resnet[0], **options)
    assert str(resnet[0]) in str(error.value)
    assert len(str(error.value).splitlines()) == 1
