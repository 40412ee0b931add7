"""Damaged files of checkpoints give the right numbers or one sentence, never other numbers.

Each attack damages one file of the checkpoints at a seeded place: a flipped bit (half of them), a
truncated, empty, deleted or overwritten file. The remedy that an error of resuming names is
followed, until the run ends with the numbers of an undisturbed one.
"""

import json
import shutil

import pytest
from faults.runs import TRACEBACK


@pytest.fixture(scope="module")
def stopped(warm, undisturbed, tmp_path_factory):
    """Folder of a run that was killed in its second stage, before the last checkpoint."""
    workdir = tmp_path_factory.mktemp("stopped")
    shutil.copytree(undisturbed.workdir, workdir, dirs_exist_ok=True)
    for name in ("results.json", "report.md", "curves.png", "student/stage.json"):
        (workdir / name).unlink()
    last = max((workdir / "student" / "checkpoints").iterdir(), key=lambda path: int(path.name))
    shutil.rmtree(last)
    (workdir / "expected.json").write_text(json.dumps(undisturbed.expected))
    return workdir


def attacked(warm, workdir, use, first, number, found):
    """Counts the attacks of one child."""
    ended = warm.run("faults.damage:attack", workdir, use, first, number)
    if ended.code:
        found.add(TRACEBACK, (first, ended.code, ended.err))
        return
    answer = json.loads(ended.out)
    for example in answer["failed"]:
        found.add(example[0], example[1:])
        answer["outcomes"][example[0]] -= 1
    found.update(answer["outcomes"])


def test_a_damaged_checkpoint_is_never_read_silently(warm, undisturbed, totals):
    attacked(warm, undisturbed.workdir, "load", 0, 10, totals("damaged file, load"))


def test_a_damaged_checkpoint_is_never_resumed_silently(warm, stopped, totals):
    attacked(warm, stopped, "resume", 0, 1, totals("damaged file, resume"))


@pytest.mark.long
@pytest.mark.parametrize(("use", "number"), [("load", 400), ("evaluate", 60), ("resume", 120)])
def test_many_damaged_files(warm, undisturbed, stopped, totals, use, number):
    found = totals(f"damaged file, {use}, seeds 0 to {number - 1}")
    workdir = stopped if use == "resume" else undisturbed.workdir
    for first in range(0, number, 20):
        attacked(warm, workdir, use, first, 20, found)
