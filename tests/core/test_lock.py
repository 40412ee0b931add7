"""The lock of a folder."""

import os
import signal
import subprocess
import sys

import pytest
from etils import epath

from kd_jax.core.errors import UsageError
from kd_jax.core.lock import locked

HOLD = """
import sys, time
from etils import epath
from kd_jax.core.lock import locked
with locked(epath.Path(sys.argv[1]), "key"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_owner_is_refused_and_the_first_is_named(tmp_path):
    folder = epath.Path(tmp_path)
    with locked(folder, "--workdir"):
        says = rf"--workdir=.* is in use by process {os.getpid()} on .*: wait until it ends, or"
        with pytest.raises(UsageError, match=says), locked(folder, "--workdir"):
            pass
    with locked(folder, "--workdir"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_killed_process_leaves_no_lock(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        says = f"process {process.pid} on "
        with pytest.raises(UsageError, match=says), locked(epath.Path(tmp_path), "key"):
            pass
        process.send_signal(signal.SIGKILL)
    with locked(epath.Path(tmp_path), "key"):
        pass


def test_buckets_are_not_locked():
    with locked(epath.Path("gs://bucket/run"), "key"):
        pass
