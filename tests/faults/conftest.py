"""A process that is ready to fork runs, and an undisturbed run to compare with.

Tests with the marker `long` repeat the attacks many times; only `-m long` runs them, and prints a
table of all totals.
"""

import pathlib
import time

import pytest
from faults.runs import Totals, final, train
from faults.warm import Warm

ROOT = pathlib.Path(__file__).parents[2]
_TOTALS = pytest.StashKey[list[str]]()


def pytest_terminal_summary(terminalreporter, config):
    totals = config.stash.get(_TOTALS, [])
    if totals and "long" in (config.option.markexpr or ""):
        terminalreporter.section("attacks")
        terminalreporter.line(
            "| attack | tried | equal | refused | different | tracebacks | time |"
        )
        for row in totals:
            terminalreporter.line(row)


@pytest.fixture
def totals(request):
    """Makes the totals of an attack, and checks them at the end of the test."""
    made = []

    def make(name):
        made.append(Totals(name))
        return made[-1]

    yield make
    for found in made:
        request.config.stash.setdefault(_TOTALS, []).append(found.row())
    for found in made:
        found.check()


@pytest.fixture(scope="session")
def warm(tmp_path_factory):
    """Returns the process that forks runs; equal programs are compiled once."""
    environment = {
        "PYTHONPATH": f"{ROOT / 'tests'}:{ROOT}",
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("programs")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    with Warm(environment) as process:
        yield process


class Undisturbed:
    """A run that was never stopped; tests must not change its folder.

    Attributes:
        workdir: folder of the run.
        expected: its numbers and hashes.
        operations: number of its operations that changed files.
        seconds: its duration.
    """

    def __init__(self, warm, workdir):
        self.workdir = workdir
        ended = warm.run(*train(workdir), folder=str(workdir))
        assert ended.code == 0, ended.err
        self.expected, self.operations = final(workdir), ended.operations
        self.seconds = 0.0

    def measure(self, warm, workdir):
        """Measures the duration of a second run, whose programs are compiled."""
        started = time.monotonic()
        assert warm.run(*train(workdir)).code == 0
        self.seconds = time.monotonic() - started


@pytest.fixture(scope="session")
def undisturbed(warm, tmp_path_factory):
    return Undisturbed(warm, tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture(scope="session")
def seconds(warm, undisturbed, tmp_path_factory):
    """Returns the duration of a run whose programs are compiled."""
    undisturbed.measure(warm, tmp_path_factory.mktemp("measured"))
    return undisturbed.seconds
