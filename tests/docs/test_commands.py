"""Every command of the documentation: it runs as it stands, or its words are checked."""

import importlib.util
import pathlib
import shlex
import subprocess

import numpy as np
import pytest
from docs.pages import ROOT, all_blocks, blocks, commands_of
from PIL import Image

from kd_jax import commands
from kd_jax.commands import _cli

RUN = ("docs/quickstart.md", "docs/deploy.md", "docs/own_parts.md")
"""Pages whose commands and code run as they stand, with the small config as `quickstart`."""
WORDS = sorted({(page, line) for page, block in all_blocks() for line in commands_of(block)})
TRAIN = [(page, line) for page, line in WORDS if line.startswith("kd-jax train")]
OTHERS = [(p, c) for p, c in WORDS if c.startswith("kd-jax ") and not c.startswith("kd-jax train")]
TESTED = ("my_teacher.py", "flowers.py")
"""Words of commands that run in other tests, which make these files."""


def run(command):
    """Runs a command of `kd-jax` in this process."""
    program, *words = shlex.split(command)
    assert program == "kd-jax"
    assert commands.main(words) == 0, command


def run_page(page):
    """Runs the commands of a page, except those that install packages or repeat a run by seed."""
    exported = importlib.util.find_spec("flatbuffers") is not None
    for block in blocks(page, "bash"):
        for command in commands_of(block):
            left_out = "pip install" in command or "--seeds" in command
            if not left_out and (exported or "stablehlo" not in command):
                run(command)


@pytest.fixture(scope="module")
def quickstart(folder):
    """The working directory after the commands of the quickstart page."""
    run_page("docs/quickstart.md")
    return folder


def test_the_quickstart_runs(quickstart):
    for name in ("quickstart/results.json", "kd/results.json"):
        assert (quickstart / "runs" / name).exists()
    names = {}
    exec(blocks("docs/quickstart.md", "python")[0], names)
    assert 0 <= names["accuracy"] <= 1
    assert np.load("embeddings.npz")["embeddings"].shape[0] == len(names["digits"])


def test_a_student_is_used_as_the_page_shows(quickstart):
    Image.fromarray(np.arange(80, dtype=np.uint8).reshape(8, 10)).save("digit.png")
    pathlib.Path("photos").mkdir()
    Image.fromarray(np.zeros((12, 9, 3), np.uint8)).save("photos/black.png")
    run_page("docs/deploy.md")
    assert pathlib.Path("classes.csv").read_text().count("\n") >= 2
    names = {"images": np.zeros((3, 8, 8, 1), np.uint8)}
    loaded, python = blocks("docs/deploy.md", "python")
    exec(python, names)
    assert names["embeddings"].shape == names["outputs"].embedding.shape
    logits = names["outputs"].logits
    if not pathlib.Path("student.stablehlo").exists():
        pytest.skip("flatbuffers is not installed")
    exec(loaded, names)
    np.testing.assert_allclose(names["outputs"]["logits"], logits, rtol=1e-4, atol=1e-4)


def test_own_parts_train(folder):
    *parts, config = blocks("docs/own_parts.md", "python")
    pathlib.Path("my_parts.py").write_text("\n".join(parts))
    pathlib.Path("my_config.py").write_text(config)
    run_page("docs/own_parts.md")
    assert pathlib.Path("runs/two_layers/results.json").exists()


def test_the_whole_config_is_valid(folder, capsys):
    (config,) = blocks("docs/config.md", "python")
    pathlib.Path("flowers.py").write_text(config)
    first, second = commands_of(blocks("docs/config.md", "bash")[0])
    run(first)
    run(f"{second} --print_config")
    assert "stages.student.networks.student.name = 'resnet20'" in capsys.readouterr().out


@pytest.mark.parametrize(("page", "command"), TRAIN)
def test_the_keys_of_trainings_exist(page, command, capsys, monkeypatch):
    """The config is loaded with all values of the command, and trains nothing."""
    monkeypatch.chdir(ROOT)  # away from the small config
    runs = page in RUN and "--seeds" not in command
    if runs or any(word in command for word in TESTED):
        pytest.skip("runs, or is checked, in another test")
    run(f"{command} --print_config")
    assert "stages." in capsys.readouterr().out


class ParsedError(Exception):
    """The end of a command whose options are all known."""


@pytest.mark.parametrize(("page", "command"), OTHERS)
def test_the_options_of_commands_exist(page, command, monkeypatch):
    parse = _cli.Parser.parse

    def stop(self, argv):
        parse(self, argv)
        raise ParsedError

    monkeypatch.setattr(_cli.Parser, "parse", stop)
    with pytest.raises(ParsedError):
        commands.main(shlex.split(command)[1:])


@pytest.mark.parametrize(("page", "block"), all_blocks())
def test_blocks_are_well_formed(page, block):
    """Nothing runs. Commands for other machines and for packages are checked only here."""
    subprocess.run(["bash", "-n", "-c", block], check=True)
    known = ("kd-jax", "pip", "python", "mkdocs", "gcloud", "kubectl", "export")
    for command in commands_of(block):
        words = command.split()
        assert not words or words[0] in known, page
        if words[:2] == ["python", "-m"]:
            assert importlib.util.find_spec(words[2]) is not None
        elif words[:1] == ["python"]:
            assert (ROOT / words[1]).exists()
