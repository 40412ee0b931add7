import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from kd_jax.core.stop import SIGNALS, StopSignal


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_sets_requested_and_a_second_ctrl_c_ends_the_process(number):
    before = signal.getsignal(number)
    with StopSignal() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
        assert stop.number == number
        assert (signal.getsignal(number) is before) == (number == signal.SIGINT)
    assert signal.getsignal(number) is before


def test_other_threads_leave_the_signals_alone():
    before = signal.getsignal(signal.SIGTERM)
    found = []

    def work():
        with StopSignal() as stop:
            found.append((signal.getsignal(signal.SIGTERM), stop.requested))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(before, False)]


def command(tmp_path, text, **environment):
    """Starts a process that handles signals as a command does; returns it when it is ready."""
    path = tmp_path / "command.py"
    path.write_text(textwrap.dedent(text))
    return started([sys.executable, str(path)], **environment)


def started(words, **environment):
    process = subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    assert process.stdout.readline() == "ready\n"
    return process


BUSY = """
    import hashlib
    from kd_jax.core.stop import StopSignal, Stopped, end_on_signals
    end_on_signals()
    with StopSignal() as stop:
        stop.unsaved = {unsaved}
        print("ready", flush=True)
        hashlib.pbkdf2_hmac("sha256", b"x", b"y", {rounds})  # like a compilation
        raise SystemExit(7 if stop.requested else 8)
"""
FOREVER = 10**9


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_command_at_once_if_there_is_nothing_to_save(tmp_path, number, code):
    """Even in a call of C code that cannot be interrupted."""
    process = command(tmp_path, BUSY.format(unsaved=False, rounds=FOREVER))
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (code, "")
    then = "the same command resumes from the last saved step"
    assert err == f"stopped: at once by {signal.Signals(number).name}; {then}\n"


def test_a_signal_is_heard_at_once_and_a_second_one_ends_the_command(tmp_path):
    process = command(tmp_path, BUSY.format(unsaved=True, rounds=FOREVER))
    process.send_signal(signal.SIGTERM)
    heard = "SIGTERM: saving and stopping at the next step; a second signal ends it at once\n"
    assert process.stderr.readline() == heard
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err.startswith("stopped: at once by SIGINT")
    assert err.count("\n") == 1


def test_a_request_to_stop_does_not_interrupt_the_step(tmp_path):
    process = command(tmp_path, BUSY.format(unsaved=True, rounds=3 * 10**6))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 7


@pytest.mark.parametrize("module", ["kd_jax", "kd_jax.train", "kd_jax.commands"])
def test_a_signal_during_imports_is_one_line(tmp_path, module):
    """`kd_jax.commands` is imported by the script `kd-jax`. Its first import waits here."""
    (tmp_path / "etils").mkdir()
    (tmp_path / "etils" / "__init__.py").write_text(
        "import time\nprint('ready', flush=True)\ntime.sleep(60)\n"
    )
    words = ["-m", module]
    if module == "kd_jax.commands":
        words = ["-c", "import sys; from kd_jax.commands import main; sys.exit(main())"]
    path = os.pathsep.join([str(tmp_path), os.getcwd()])
    process = started([sys.executable, *words, "train", "--config=x"], PYTHONPATH=path)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, "stopped: at once by SIGINT\n")


def test_in_other_processes_the_library_keeps_its_handlers():
    before = [signal.getsignal(number) for number in SIGNALS]
    with StopSignal() as stop:
        stop.unsaved = True
        signal.raise_signal(signal.SIGTERM)
        assert stop.requested
    assert [signal.getsignal(number) for number in SIGNALS] == before
