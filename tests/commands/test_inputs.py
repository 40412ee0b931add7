"""Options of all commands that name files or numbers: bad ones are one sentence, never a wait."""

import os
import pathlib

import numpy as np
import pytest

from kd_jax.commands import main

DIGITS = "9" * 5000
BAD_PATHS = {
    "fifo": "fifo",
    "picture": "binary.bin",
    "NUL": "a\0b",
    "no user": "~no_such_user/x",
    "long": "n" * 300,
    "loop": "loop",
    "missing": "missing",
}


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """A working directory with files that cannot be used."""
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    pathlib.Path("binary.bin").write_bytes(np.random.default_rng(0).bytes(500))
    pathlib.Path("loop").symlink_to("loop")
    return tmp_path


PATHS = {
    "embed": ["--images={}", "--network=x", "--out=o.npz"],
    "embed network": ["--network={}", "--images=FACES", "--out=o.npz"],
    "embed npz": ["--source=npz", "--source.path={}", "--network=x", "--out=o.npz"],
    "embed folder": ["--source=folder", "--source.path={}", "--network=x", "--out=o.npz"],
    "evaluate npz": ["--source=npz", "--path={}", "--network=x"],
    "evaluate pairs": ["--pairs={}", "--images=FACES", "--network=NETWORK"],
    "evaluate images": ["--pairs=FACES/pairs.txt", "--images={}", "--network=NETWORK"],
    "evaluate bin": ["--bin={}", "--network=NETWORK"],
    "evaluate scface": ["--scface={}", "--network=NETWORK"],
    "evaluate folder": ["--folder={}", "--network=NETWORK"],
    "align images": ["--images={}", "--landmarks=l", "--out=o"],
    "align landmarks": ["--images=FACES", "--landmarks={}", "--out=o"],
    "import": ["--weights={}", "--network=resnet8"],
    "train": ["--config={}", "--workdir=o"],
}


@pytest.mark.parametrize("name", PATHS)
def test_inputs_that_cannot_be_read(one_sentence, broken, faces, trained, name):
    before = sorted(os.listdir())
    for path in BAD_PATHS.values():
        arguments = [
            text.replace("FACES", str(faces)).replace("NETWORK", f"{trained[0]}/student")
            for text in PATHS[name]
        ]
        error = one_sentence(main, name.split()[0], *(text.format(path) for text in arguments))
        assert "\0" not in error
        assert sorted(os.listdir()) == before


def test_an_image_in_place_of_a_list_is_no_text(one_sentence, broken):
    error = one_sentence(main, "embed", "--images=binary.bin", "--network=x", "--out=o")
    assert "--images=binary.bin is no text: name a folder of images, or a text file" in error


@pytest.mark.parametrize(
    "arguments",
    [
        ["embed", "--network=x", "--images=i", "--out=o", "--size={0}x{0}"],
        ["evaluate", "--network=x", "--bin=b", "--size=112x{}"],
        ["evaluate", "--network=x", "--bin=b", "--probe_sizes=8,{}"],
        ["evaluate", "--network=x", "--bin=b", "--threshold={}"],
        ["evaluate", "--network=x", "--source=digits", "--resolutions={}"],
        ["evaluate", "--network=x", "--folder=f", "--identities={}"],
        ["evaluate", "--network=x", "--folder=f", "--min_images={}"],
        ["evaluate", "--network=x", "--folder=f", "--seed={}"],
        ["evaluate", "--network=x", "--folder=f", "--probe_fraction={}"],
        ["evaluate", "--network=x", "--source=tfds", "--source.name={}", "--split=test[:{}]"],
        ["align", "--images=i", "--landmarks=l", "--out=o", "--size={0}x{0}"],
        ["import", "--weights=w", "--network=resnet8", "--size={0}x{0}"],
        ["import", "--weights=w", "--network=resnet8", "--num_classes={}"],
        ["import", "--weights=w", "--network=resnet8", "--std={}"],
        ["import", "--weights=w", "--network=resnet8", "--options.width={}"],
        ["train", "--config=quickstart:smoke", "--workdir=o", "--seeds={}"],
        ["train", "--config=quickstart:smoke", "--workdir=o", "--sweep=seed=1,{}"],
        ["train", "--config=quickstart:smoke", "--workdir=o", "--config.seed={}"],
        ["train", "--config=quickstart:smoke", "--workdir=o", "--config.data.batch_size={}"],
        ["train", "--config=quickstart:smoke", "--workdir=o", "--config.stages.student.epochs={}"],
    ],
)
def test_numbers_of_5000_digits(one_sentence, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    error = one_sentence(main, *(text.format(DIGITS) for text in arguments))
    assert len(error) < 1500
    assert not os.listdir()


@pytest.mark.parametrize("size", ["1000000000000x1000000000000", "65536x1", "0x1", "1x1x1"])
def test_a_size_that_no_image_has(one_sentence, tmp_path, size):
    options = ["--weights=w", "--network=resnet8", f"--out={tmp_path / 'o'}", f"--size={size}"]
    assert "must be HEIGHTxWIDTH, such as 112x96, in pixels up to" in one_sentence(
        main, "import", *options
    )
