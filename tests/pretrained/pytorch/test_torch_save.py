"""Files that PyTorch itself writes."""

import argparse
import collections

import ml_dtypes
import numpy as np
import pytest

from kd_jax.core.errors import UsageError
from kd_jax.pretrained.pytorch.files import read_file

torch = pytest.importorskip("torch")

FLOATS = ("float64", "float32", "float16", "bfloat16", "complex64")
DTYPES = (*FLOATS, "int64", "int32", "int16", "int8", "uint8", "bool")


@pytest.fixture(params=[True, False], ids=["zip", "old"])
def saved(tmp_path, request):
    """Saves an object and reads the file."""

    def saved(content):
        path = tmp_path / "weights.pth"
        torch.save(content, path, _use_new_zipfile_serialization=request.param)
        return read_file(path).tensors

    return saved


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype(saved, dtype):
    tensor = torch.tensor([[0.0, 1.5, -2], [3, 100, 1]]).abs().to(getattr(torch, dtype))
    found = saved({"a": tensor})["a"]
    assert found.dtype == np.dtype(getattr(ml_dtypes, dtype, dtype))
    wide = np.complex64 if dtype == "complex64" else np.float64
    expected = tensor.to(torch.complex64 if dtype == "complex64" else torch.float64).numpy()
    np.testing.assert_array_equal(found.astype(wide), expected)


def test_views_and_shared_storages(saved):
    whole = torch.arange(24.0).reshape(2, 3, 4)
    views = {
        "whole": whole,
        "transposed": whole.transpose(0, 2),
        "part": whole[1, :, 1:3],
        "step": whole[:, ::2],
        "expanded": whole[0, 0, 0].expand(3, 2),
        "scalar": whole[1, 2, 3],
        "empty": whole[:0],
        "channels_last": torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
    }
    found = saved(views)
    for name, view in views.items():
        np.testing.assert_array_equal(found[name], view.numpy())


def test_modules_and_checkpoints_of_training(saved):
    module = torch.nn.DataParallel(
        torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    )
    optimizer = torch.optim.SGD(module.parameters(), 0.1, momentum=0.9)
    module(torch.rand(4, 3)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5])
    found = saved(
        {
            "opt": argparse.Namespace(model="resnet8", lr=[0.1]),
            "epoch": 3,
            "accuracy": torch.tensor(0.5),
            "best": np.float64(0.25),
            "size": torch.Size([3, 2]),
            "device": torch.device("cpu"),
            "counts": collections.Counter(a=2),
            "schedule": schedule.state_dict(),
            "optimizer": optimizer.state_dict(),
            "model": module.state_dict(),
        }
    )
    inner = module.module.state_dict()
    assert list(found) == list(inner)
    for name, tensor in inner.items():
        np.testing.assert_array_equal(found[name], tensor.numpy())


def test_parameters(saved):
    parameter = torch.nn.Parameter(torch.rand(3))
    found = saved(dict(torch.nn.Linear(2, 3).named_parameters()) | {"a": parameter})
    np.testing.assert_array_equal(found["a"], parameter.detach().numpy())
    assert list(found) == ["weight", "bias", "a"]


def test_a_whole_module_is_refused(saved):
    with pytest.raises(UsageError, match=r"it calls torch\.nn\.modules\.linear\.Linear, which is"):
        saved(torch.nn.Linear(3, 2))
