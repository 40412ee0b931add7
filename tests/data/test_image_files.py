import os
import pathlib

import numpy as np
import pytest
from small_sets import save

from kd_jax.core.errors import UsageError
from kd_jax.data.image_files import FileImages, folder_names, image_names, images_below
from kd_jax.data.sources.face_folder import FaceFolder
from kd_jax.data.sources.folder import Folder


def test_images_at_any_depth(tmp_path):
    for name in ("b.png", "a/c.JPG", "a/.hidden.png", "notes.txt", "a/b/d.webp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "a" / "again").symlink_to(tmp_path)  # links to folders are not followed
    assert images_below(tmp_path) == ["a/b/d.webp", "a/c.JPG", "b.png"]
    assert image_names(tmp_path / "a") == ["c.JPG"]
    assert folder_names(tmp_path / "a") == ["again", "b"]


@pytest.mark.parametrize("list_names", [images_below, image_names, folder_names])
def test_a_folder_that_cannot_be_read_is_named(tmp_path, list_names):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("none", "file", "loop", "x" * 300):
        with pytest.raises(UsageError, match=f"{name} cannot be read"):
            list_names(tmp_path / name)


def test_a_link_to_itself_is_named(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(UsageError, match=r"loop cannot be read \(Too many levels.*: remove it"):
        folder_names(tmp_path)


def fifo(path: pathlib.Path):
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (fifo, "it is no regular file"),
        (pathlib.Path.mkdir, "Is a directory"),
        (lambda path: path.symlink_to(path), "Too many levels"),
        (lambda path: path.symlink_to("none"), "No such file"),
    ],
)
def test_what_is_no_file_is_named(tmp_path, make, says):
    """A source finds it by its name, and must neither wait for it nor leave it out."""
    for name in ("a", "b"):
        for i in range(2):
            save(tmp_path / "train" / name / f"{i}.png", 9)
    make(tmp_path / "train" / "b" / "x.png")
    for source in (Folder(str(tmp_path)), FaceFolder(str(tmp_path / "train"))):
        with pytest.raises(UsageError, match=rf"b/x\.png cannot be read \({says}"):
            source.load("train[50%:]" if isinstance(source, Folder) else "test")


@pytest.mark.parametrize("path", ["a\0b", "~no_such_user", ""])
def test_paths_that_cannot_exist(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    for source in (Folder(path), FaceFolder(path)):
        with pytest.raises(UsageError) as error:
            source.open("train")
        assert len(str(error.value).splitlines()) == 1
    labels = np.zeros(1, np.int32)
    images = FileImages(keys=np.array(["a\0b"], object), labels=labels, num_classes=1, root=path)
    with pytest.raises(UsageError, match="cannot be read"):
        images.read(0)
    with pytest.raises(UsageError, match="cannot be read"):
        images.num_bytes()
