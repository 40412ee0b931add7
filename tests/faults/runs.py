"""Runs under attack: what they end with, and the totals of a suite."""

import collections
import json
import os
import pathlib
import random
import re
import shutil
import signal
import time
from typing import Any

import jax
import small_config
from faults import two_layers  # noqa: F401 - registers the network
from faults.warm import Ended, Warm
from jax.sharding import SingleDeviceSharding

import kd_jax
from kd_jax.core.errors import UsageError
from kd_jax.core.hashing import content_hash
from kd_jax.training.checkpoints import Checkpoints

CONFIG = pathlib.Path(__file__).with_name("chain.py")
STAGES = ("teacher", "student")
EQUAL, REFUSED, DIFFERENT, TRACEBACK = "equal", "refused", "different", "traceback"
ITEMS = ("network_student", "adapters", "optimizer")


def train(workdir: pathlib.Path | str) -> list[str]:
    """Returns the words of the command that trains or resumes."""
    return ["train", f"--config={CONFIG}", f"--workdir={workdir}"]


def final(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the results of the finished stages of a run, and hashes of their stored arrays.

    The hashes are those of the best network and of the last checkpoint, computed from the arrays.

    Raises:
        UsageError: if an array is damaged.
    """
    found = numbers(workdir)
    device = SingleDeviceSharding(jax.devices()[0])
    for stage in found:
        folder = workdir / stage["name"]
        best = kd_jax.load(folder, checkpoint="best").variables
        with Checkpoints(folder / "checkpoints", read_only=True) as checkpoints:
            step = stage["last"]["step"]
            arrays = [checkpoints.restore_stored(step, item, device) for item in ITEMS]
        stage["hashes"] = [content_hash(tree) for tree in (best, *arrays)]
    return found


def numbers(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the results of the finished stages of a run."""
    return small_config.numbers(json.loads((workdir / "results.json").read_text()))


class Totals(collections.Counter):
    """Numbers of attacks by their outcome.

    Attributes:
        name: the suite.
        examples: description of every attack that failed.
    """

    def __init__(self, name: str):
        super().__init__()
        self.name = name
        self.examples: list[str] = []
        self.started = time.monotonic()

    def add(self, outcome: str, description: object) -> None:
        """Counts an attack."""
        self[outcome] += 1
        if outcome in (DIFFERENT, TRACEBACK):
            self.examples.append(f"{outcome}: {description}")

    def check(self) -> None:
        """Fails if an attack gave other numbers or a traceback."""
        assert not self.examples, "\n".join(text[:1000] for text in self.examples)

    def row(self) -> str:
        """Returns the row of a table in Markdown."""
        outcomes = (EQUAL, REFUSED, DIFFERENT, TRACEBACK)
        seconds = time.monotonic() - self.started
        numbers = " | ".join(str(self[outcome]) for outcome in outcomes)
        return f"| {self.name} | {self.total()} | {numbers} | {seconds:.0f} s |"


def finished(ended: Ended, workdir: pathlib.Path, expected: list[dict[str, Any]]) -> str:
    """Returns the outcome of a command that trained to the end, or refused.

    Args:
        ended: the command.
        workdir: folder of the run.
        expected: `final` of an undisturbed run of these stages or more.
    """
    if ended.code == 0 and not ended.traceback:
        try:
            found = final(workdir)
            return EQUAL if found == expected[: len(found)] else DIFFERENT
        except UsageError:  # a finished run must be readable
            return DIFFERENT
    return REFUSED if ended.refused else TRACEBACK


def kill(warm: Warm, workdir: pathlib.Path, number: int, kind: str, when: float) -> Ended:
    """Kills a child at a moment.

    Args:
        warm: the process that has forked the child.
        workdir: folder of the run.
        number: process number of the child.
        kind: `time` counts from the start; `save` from the next folder of an unfinished checkpoint.
        when: seconds.
    """
    drafts = set(workdir.glob("*/checkpoints/*tmp*"))
    if kind == "save":
        limit = time.monotonic() + 20
        while time.monotonic() < limit and not set(workdir.glob("*/checkpoints/*tmp*")) - drafts:
            time.sleep(0.0005)
    time.sleep(when)
    os.kill(number, signal.SIGKILL)  # a child that has ended is a zombie until `wait`
    return warm.wait(number)


def follow(message: str) -> bool:
    """Deletes the folder that an error names; returns False if it names none."""
    found = re.search(r"The checkpoint (\S+) is damaged .*: delete that folder to resume", message)
    found = found or re.search(r"delete (?:the folder )?(/\S+) (?:to|and) train", message)
    found = found or re.search(r"= '(/\S+?)'.*: delete the folder and train or import", message)
    if not found:
        return False
    shutil.rmtree(found[1])
    return True


def generator(seed: int, name: str) -> random.Random:
    """Returns the random numbers of an attack."""
    return random.Random(f"{name} {seed}")
