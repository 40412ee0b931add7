"""`kd-jax COMMAND`: the list of commands, and what is common to all."""

import functools
import os
import subprocess
import sys

import jax
import pytest
import small_config
from etils import epath

import kd_jax
from kd_jax import commands
from kd_jax.commands import main
from kd_jax.core.files import write_file


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


OUTPUTS = {
    "embed": ["--network=no", "--images=no"],
    "evaluate": ["--network=no", "--bin=no"],
    "evaluate source": ["--network=no", "--source=digits"],
    "align": ["--images=i", "--landmarks=l", "--size=112x112"],
    "import": ["--weights=no", "--network=resnet8", "--mean=0", "--std=1"],
    "train": [f"--config={small_config.__file__}"],
}


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("out", ["fifo", "/dev/full", "file/x", "n" * 300, "~no_such_user/x"])
def test_outputs_that_cannot_be_written_are_refused_first(
    one_sentence, tmp_path, monkeypatch, name, out
):
    """The other options of these commands are wrong too: nothing was computed or read before."""
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    (tmp_path / "file").write_text("")
    before = sorted(os.listdir())
    option = "--workdir" if name == "train" else "--out"
    error = one_sentence(main, name.split()[0], *OUTPUTS[name], f"{option}={out}")
    assert "cannot be" in error
    assert option in error
    assert sorted(os.listdir()) == before


def test_a_write_that_fails_at_the_end_is_one_sentence(one_sentence, tmp_path, monkeypatch):
    full = OSError(28, "No space left on device")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(full))
    write = functools.partial(
        write_file, epath.Path(tmp_path / "new" / "e.npz"), b"x", make_folder=True
    )
    error = one_sentence(lambda _: commands.exit_code(write))
    assert "e.npz cannot be written (No space left on device): free space on the disk, and" in error
    assert not os.listdir(tmp_path / "new")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (RuntimeError("can't start new thread"), "raise the limit of processes"),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"), "lower data.batch_size"),
        (MemoryError(), "the memory is full"),
        (OSError(24, "Too many open files"), "raise the limit of open files"),
        (ConnectionRefusedError(111, "Connection refused"), "check the network"),
        (ImportError("Please install gcsfs to access Google Storage"), "need gcsfs: run"),
    ],
)
def test_limits_of_the_machine_are_one_sentence(one_sentence, error, says):
    def fail():
        raise error

    assert says in one_sentence(lambda _: commands.exit_code(fail))


@pytest.mark.parametrize("name", commands.names())
def test_unknown_words_are_one_sentence(one_sentence, name):
    assert "option = '--nosuch' is unknown: choose one of" in one_sentence(main, name, "--nosuch=1")
    if name not in ("compare", "predict"):  # which take runs and images
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
