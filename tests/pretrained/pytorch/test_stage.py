"""Folders of imported networks: they are complete, and like those of finished stages."""

import json

import jax
import numpy as np
import pytest

import kd_jax
from kd_jax.core.errors import UsageError
from kd_jax.pretrained import NetworkInfo
from kd_jax.pretrained.pytorch import check_folder, stage, write_stage

INFO = NetworkInfo("resnet8", {"width": 0.25}, 5, (8, 8), "bicubic", (0.5,) * 3, (0.25,) * 3)
ORIGIN = {"file": "resnet8.pth", "sha256": "0" * 64, "table": "resnet_downsample_fc"}


@pytest.fixture(scope="module")
def variables(original):
    return original("resnet8", width=0.25)[1]


@pytest.mark.parametrize("checkpoint", ["last", "best"])
def test_the_network_is_read_back(tmp_path, variables, checkpoint):
    folder = tmp_path / "outer" / "resnet8"
    write_stage(folder, variables, INFO, ORIGIN)
    trained = kd_jax.load(folder, checkpoint=checkpoint)
    assert trained.info == INFO
    jax.tree.map(np.testing.assert_array_equal, trained.variables, variables)
    written = json.loads((folder / "stage.json").read_text())
    params = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert written["imported"] == ORIGIN
    assert (written["name"], written["role"], written["params"]) == ("resnet8", "student", params)
    assert [path.name for path in folder.parent.iterdir()] == ["resnet8"]
    assert folder.stat().st_mode & 0o777 == folder.parent.stat().st_mode & 0o777


def test_an_empty_folder_is_filled_and_a_full_one_refused(tmp_path, variables):
    folder = tmp_path / "resnet8"
    folder.mkdir()
    write_stage(folder, variables, INFO, ORIGIN)
    before = sorted(folder.rglob("*"))
    with pytest.raises(UsageError, match=r"folder = '.*resnet8' exists and is not empty"):
        write_stage(folder, variables, INFO, ORIGIN)
    assert sorted(folder.rglob("*")) == before


def test_nothing_is_left_of_a_folder_that_could_not_be_written(tmp_path, variables, monkeypatch):
    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(stage.os, "replace", full)
    with pytest.raises(UsageError, match=r"key = '.*' cannot be written \(no space left"):
        write_stage(tmp_path / "new", variables, INFO, ORIGIN, key="key")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("folder", "says"),
    [
        ("gs://bucket/resnet8", "must be a local folder"),
        ("file/resnet8", "cannot be made"),
        ("file", "exists and is not empty"),
    ],
)
def test_folders_that_cannot_be_made(tmp_path, folder, says):
    (tmp_path / "file").write_text("")
    place = folder if "://" in folder else tmp_path / folder
    with pytest.raises(UsageError, match=f"key = '.*{says}"):
        check_folder(place, "key")
