"""Runs that are killed at any moment end with the same numbers, to the last digit.

The moments are operations on files, times after the start, and times after the beginning of a save.
"""

import pytest
from faults.runs import DIFFERENT, EQUAL, REFUSED, finished, generator, kill, train
from faults.warm import KILL

KINDS = ("operation", "save", "time")


def test_a_run_survives_two_kills_and_a_full_disk(warm, undisturbed, tmp_path, totals):
    """It is killed in the middle of the first stage and in a save; in between, the disk is full."""
    command, found = train(tmp_path), totals("two kills and a full disk")
    at = undisturbed.operations // 4
    assert warm.run(*command, folder=str(tmp_path), at=at, fault=KILL).code == -9
    full = warm.run(*command, folder=str(tmp_path), at=at // 2, fault="ENOSPC")
    assert full.refused, full.err
    assert "No space left on device" in full.err
    assert kill(warm, tmp_path, warm.start(*command), "save", 0.02).code == -9
    assert not (tmp_path / "results.json").exists()
    ended = warm.run(*command)
    found.add(finished(ended, tmp_path, undisturbed.expected), ended.err)
    assert found[EQUAL] == 1


def killed(warm, undisturbed, workdir, kind, random, seconds):
    """Kills a run at a moment; returns whether it was killed before its end."""
    if kind == "operation":
        at = random.randint(1, undisturbed.operations // 2)
        ended = warm.run(*train(workdir), folder=str(workdir), at=at, fault=KILL)
    else:
        when = random.uniform(0, seconds if kind == "time" else 0.2)
        ended = kill(warm, workdir, warm.start(*train(workdir)), kind, when)
    assert ended.code in (0, -9), ended.err
    return ended.code == -9


@pytest.mark.long
def test_killed_many_times_it_ends_with_the_same_numbers(
    warm, undisturbed, seconds, tmp_path, totals
):
    found = totals("SIGKILL, three to four per run")
    kills = 0
    for seed in range(20):
        random, workdir = generator(seed, "kills"), tmp_path / str(seed)
        kinds = [*KINDS, *random.choices(KINDS, k=seed % 2)]
        random.shuffle(kinds)
        for kind in kinds:
            kills += killed(warm, undisturbed, workdir, kind, random, seconds)
        ended = warm.run(*train(workdir))
        outcome = finished(ended, workdir, undisturbed.expected)
        found.add(DIFFERENT if outcome == REFUSED else outcome, (seed, kinds, ended.err))
    found.name += f" ({kills} kills), seeds 0 to 19"
    assert kills >= 50
