"""`kd-jax COMMAND`: the list of commands, and what is common to all."""

import subprocess
import sys

import pytest

import kd_jax
from kd_jax import commands
from kd_jax.commands import main


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"]])
def test_without_a_command_all_are_listed(capsys, argv):
    assert main(argv) == 0
    printed = capsys.readouterr().out
    assert {"align", "embed", "evaluate", "train"} <= set(commands.names())
    for name in commands.names():
        assert f"  {name}" in printed
        assert commands.summary(name) in printed
        assert len(commands.summary(name)) > 20


def test_python_m_lists_the_commands_too():
    done = subprocess.run(
        [sys.executable, "-m", "kd_jax"], capture_output=True, text=True, check=True
    )
    assert "usage: kd-jax COMMAND" in done.stdout
    assert not done.stderr


def test_the_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"kd_jax {kd_jax.__version__}\n"


def test_an_unknown_command_is_one_sentence(one_sentence):
    says = "command = 'trian' is unknown: choose one of train, align, "
    assert says in one_sentence(main, "trian", "--config=x")


@pytest.mark.parametrize("name", commands.names())
def test_every_command_describes_itself(capsys, name):
    assert main([name, "--help"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"usage: kd-jax {name}")
    assert commands.summary(name) in printed
    assert "--import" in printed


@pytest.mark.parametrize("name", commands.names())
def test_unknown_words_are_one_sentence(one_sentence, name):
    assert "option = '--nosuch' is unknown: choose one of" in one_sentence(main, name, "--nosuch=1")
    assert "somewhere is not understood" in one_sentence(main, name, "somewhere")


@pytest.mark.parametrize(
    ("text", "value", "says"),
    [
        (None, "nowhere.py", "nowhere.py is not a file: name a Python file or a module"),
        (None, "no_such_module", "cannot be imported (ModuleNotFoundError"),
        ("1 / 0", "mine.py", "mine.py cannot be imported (ZeroDivisionError: division by zero)"),
        ("import kd_jax\nkd_jax.register_method('kd', object)", "mine.py", "'kd' is a method of"),
    ],
)
def test_a_module_that_cannot_be_imported_is_one_sentence(
    one_sentence, tmp_path, monkeypatch, text, value, says
):
    monkeypatch.chdir(tmp_path)
    if text is not None:
        (tmp_path / "mine.py").write_text(text)
    assert says in one_sentence(main, "train", f"--import={value}")
