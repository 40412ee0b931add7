"""Timing side by side, so that other programs on the machine fall on all runs alike."""

import time
from collections.abc import Callable, Mapping


def fastest(runs: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Milliseconds of each run, the least of `repeats`, after one that warms up."""
    times = {name: [] for name in runs}
    for _ in range(1 + repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: min(each[1:]) for name, each in times.items()}
