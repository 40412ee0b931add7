"""A full or broken disk is one sentence, and then the same command ends with the same numbers.

TensorStore writes the arrays in C++. Its operations fail by a limit on the size of files and by a
file system that is full. Errors are injected into the operations of Python: opening for writing,
`mkdir`, `rename`, `remove`, `rmdir`, `truncate` and `fsync`. The short profile of a full disk is in
`test_kills.py`.
"""

import subprocess

import pytest
from faults.runs import DIFFERENT, EQUAL, REFUSED, TRACEBACK, finished, generator, train

ERRORS = ("ENOSPC", "EIO", "EDQUOT", "EROFS")
LIMITS = (0, 100, 500, 1_000, 4_000, 20_000)


def check(warm, workdir, expected, found, ended, description):
    """Counts a disturbed run; then the same command runs without the fault."""
    outcome = finished(ended, workdir, expected)
    again = warm.run(*train(workdir))
    later = finished(again, workdir, expected)
    if later != EQUAL and outcome in (EQUAL, REFUSED):
        outcome = TRACEBACK if later == TRACEBACK else DIFFERENT
    found.add(outcome, (description, ended.code, ended.err, again.code, again.err))


@pytest.mark.long
def test_limits_of_file_sizes(warm, undisturbed, tmp_path, totals):
    found = totals("limit on the size of files (EFBIG)")
    for limit in LIMITS:
        workdir = tmp_path / str(limit)
        ended = warm.run(*train(workdir), file_size=limit)
        check(warm, workdir, undisturbed.expected, found, ended, limit)


@pytest.mark.long
def test_errors_of_operations(warm, undisturbed, tmp_path, totals):
    """Even seeds break the disk for good, odd ones break one operation."""
    found = totals("ENOSPC, EIO, EDQUOT, EROFS at an operation, seeds 0 to 29")
    for seed in range(30):
        random, workdir = generator(seed, "disks"), tmp_path / str(seed)
        at, fault = random.randint(1, undisturbed.operations), random.choice(ERRORS)
        ended = warm.run(
            *train(workdir), folder=str(workdir), at=at, fault=fault, once=bool(seed % 2)
        )
        check(warm, workdir, undisturbed.expected, found, ended, (seed, at, fault))


@pytest.fixture
def mounted(tmp_path):
    """Mounts a file system in memory of a size in KiB, or changes its size."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(size, *more):
        command = ["mount", "-t", "tmpfs", "-o", ",".join([*more, f"size={size}k"])]
        done = subprocess.run([*command, "tmpfs", str(folder)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
        return folder

    yield mount
    subprocess.run(["umount", str(folder)], capture_output=True)


@pytest.mark.long
@pytest.mark.parametrize("size", [8, 80, 160, 240, 320, 480])
def test_a_full_file_system(warm, undisturbed, mounted, totals, size):
    workdir = mounted(size) / "run"
    ended = warm.run(*train(workdir))
    mounted(64_000, "remount")
    check(warm, workdir, undisturbed.expected, totals(f"tmpfs of {size} KiB"), ended, size)
