"""Other numbers of devices, and two processes as on a pod, one of which is killed."""

import os
import signal
import socket
import time

import jax
import pytest
from faults.runs import final, generator, train
from faults.warm import KILL

from kd_jax.core.errors import UsageError
from kd_jax.training.peers import together

RELATIVE = 1e-5
"""Relative difference of metrics between numbers of devices: sums are taken in another order."""
HEARTBEAT = 10
"""Seconds after which a silent process counts as dead; the default of JAX is 100."""


def close(found, expected):
    for one, other in zip(found, expected, strict=True):
        for which in ("last", "best"):
            assert one[which] == pytest.approx(other[which], rel=RELATIVE)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(3))
def test_devices_1_to_8_to_2(warm, undisturbed, tmp_path, seed):
    random = generator(seed, "devices")
    for devices in (1, 8):
        at = random.randint(undisturbed.operations // 8, undisturbed.operations // 2)
        options = {"folder": str(tmp_path), "at": at, "fault": KILL}
        assert warm.run(*train(tmp_path), devices=devices, **options).code == -9
    ended = warm.run(*train(tmp_path), devices=2)
    assert ended.code == 0, ended.err
    close(final(tmp_path), undisturbed.expected)


@pytest.mark.parametrize(
    ("processes", "text", "lost"),
    [
        (2, "UNKNOWN: Gloo AllGather failed: Connection reset by peer", True),
        (2, "INTERNAL: Barrier failed because: Task 1 heartbeat timeout", True),
        (2, "RESOURCE_EXHAUSTED: Out of memory", False),
        (1, "UNKNOWN: Gloo AllGather failed: Connection reset by peer", False),
    ],
)
def test_the_errors_of_a_lost_process(monkeypatch, processes, text, lost):
    """The texts are those that the killed processes below gave."""
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    kind = UsageError if lost else jax.errors.JaxRuntimeError
    says = "Another process of this run has ended" if lost else text
    with pytest.raises(kind, match=says), together():
        raise jax.errors.JaxRuntimeError(text)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start(warm, workdir):
    """Starts both processes, with one device each."""
    port = free_port()
    return [
        warm.start("faults.pod:work", process, port, workdir, HEARTBEAT) for process in range(2)
    ]


@pytest.mark.long
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_killed_process_of_two(warm, undisturbed, tmp_path, victim, seed):
    """The other process ends in bounded time without a traceback, and both resume.

    JAX itself aborts it with SIGABRT: at once where the killed process was the coordinator, else
    when the heartbeat of the killed process is missing. That can be before it prints its sentence.
    """
    children = start(warm, tmp_path)
    stage = ("teacher", "student")[seed]
    while not list(tmp_path.glob(f"{stage}/checkpoints/*/hashes")):
        time.sleep(0.01)
    time.sleep(generator(seed, "pods").uniform(0, 0.5))
    os.kill(children[victim], signal.SIGKILL)
    killed = time.monotonic()
    other = warm.wait(children[1 - victim])
    assert time.monotonic() - killed < HEARTBEAT + 10
    assert warm.wait(children[victim]).code == -9
    assert other.code in (2, -signal.SIGABRT), other.err
    assert "Traceback" not in other.err
    says = ("error: Another process of this run has ended", "another task died")
    assert any(text in other.err for text in says), other.err
    assert not (tmp_path / "results.json").exists()
    ended = [warm.wait(child) for child in start(warm, tmp_path)]
    assert [one.code for one in ended] == [0, 0], [one.err for one in ended]
    close(final(tmp_path), undisturbed.expected)
