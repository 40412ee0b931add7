"""Of several runs that start at once in one folder, one trains and the others are refused."""

import time

import pytest
from faults.runs import EQUAL, REFUSED, finished, train


def race(warm, workdir, expected, found, number, *options, wait=False):
    """Starts several runs at once; with `wait`, the last one when `config.json` exists."""
    children = [warm.start(*train(workdir), *options) for _ in range(number - 1)]
    while wait and not (workdir / "config.json").exists():
        time.sleep(0.001)
    children.append(warm.start(*train(workdir), *options))
    ended = [warm.wait(child) for child in children]
    outcomes = [finished(one, workdir, expected) for one in ended]
    for one, outcome in zip(ended, outcomes, strict=True):
        found.add(outcome, (one.code, one.err))
        assert outcome != REFUSED or " is in use by process " in one.err, one.err
    assert outcomes.count(EQUAL) == 1, [one.err for one in ended]


def test_two_runs_at_once(warm, undisturbed, tmp_path, totals):
    found, options = totals("2 runs at once"), ("--stages=teacher",)
    race(warm, tmp_path, undisturbed.expected, found, 2, *options, wait=True)


@pytest.mark.long
@pytest.mark.parametrize("number", [2, 3, 4])
def test_several_runs_at_once(warm, undisturbed, tmp_path, totals, number):
    found = totals(f"{number} runs at once, 3 times")
    for i in range(3):
        workdir = tmp_path / str(i)
        race(warm, workdir, undisturbed.expected, found, number)
        assert finished(warm.run(*train(workdir)), workdir, undisturbed.expected) == EQUAL
