"""Timing of programs in turn, so that other programs on the machine slow all of them alike."""

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

Program = Callable[[], object]


def fastest(programs: Mapping[str, Program], repeats: int) -> dict[str, float]:
    """Returns the least milliseconds of each program over `repeats` runs, after a warm-up run."""
    times: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(1 + repeats):
        for name, program in programs.items():
            start = time.perf_counter()
            program()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: min(each[1:]) for name, each in times.items()}


def in_rounds(programs: Mapping[str, Program], steps: int, rounds: int) -> dict[str, list[float]]:
    """Measures programs round after round, after a round that warms up.

    Args:
        programs: programs by name; each runs `steps` steps per call.
        steps: number of steps per call.
        rounds: number of rounds.

    Returns:
        Milliseconds per step of each program in each round.
    """
    times: dict[str, list[float]] = {name: [] for name in programs}
    for i in range(1 + rounds):
        # The order alternates, so that no program always follows the same one.
        for name in sorted(programs, key=list(programs).index, reverse=bool(i % 2)):
            start = time.perf_counter()
            programs[name]()
            if i:
                times[name].append(1e3 * (time.perf_counter() - start) / steps)
    return times


class Spread(NamedTuple):
    """Median and quartiles."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Returns median and quartiles of some measurements."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high)


def load() -> str:
    """Returns a sentence on the load of the machine; empty where the system does not know it."""
    if not hasattr(os, "getloadavg"):
        return ""
    numbers = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    return f"Load of the machine's {os.cpu_count()} cores: {numbers} (1, 5, 15 minutes)."
