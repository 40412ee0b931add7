"""Repeats the attacks of `tests/fuzz` with many seeds, and prints a table of their outcomes.

    python -m experiments.robustness --rounds=10

The attacks of `tests/faults` print their own table: `pytest tests/faults -m long`.
"""

import argparse
import collections
import pathlib
import random
import sys
import time
import traceback
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kd_jax.core.errors import UsageError

FOLDER = pathlib.Path(__file__).parents[1] / "tests" / "fuzz"
OUTCOMES = ("read or accepted", "refused", "different", "traceback")


class Attacks:
    """A plugin of pytest that counts the attacks of the tests, and repeats them.

    Attributes:
        rounds: how often each attack is repeated, with other seeds.
        rows: outcomes by test.
    """

    def __init__(self, rounds: int):
        self.rounds = rounds
        self.rows: dict[str, collections.Counter[str]] = collections.defaultdict(
            collections.Counter
        )
        self.failed: list[str] = []
        self._name, self._round = "", 0

    def pytest_itemcollected(self, item: Any) -> None:
        """Replaces the functions that attack in the module of a test."""
        module = item.module
        if hasattr(module, "DAMAGE"):
            module.check = self._files(module.DAMAGE)
        elif not hasattr(module, "checked"):
            module.checked = module.check
            module.check = self._config(module.checked)
            module.random = types.SimpleNamespace(Random=self._random)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_pyfunc_call(self, pyfuncitem: Any):
        """Repeats the tests of configs; those of files repeat in `_files`."""
        self._name, self._round = pyfuncitem.originalname.removeprefix("test_"), 0
        yield
        names = pyfuncitem._fixtureinfo.argnames
        if hasattr(pyfuncitem.module, "checked") and not names:
            for number in range(1, self.rounds):
                self._round = number
                pyfuncitem.obj()

    def _random(self, seed: int) -> random.Random:
        return random.Random(seed + 1000 * self._round)

    def _config(self, check: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
        def counted(config: dict[str, Any]) -> Any:
            try:
                found = check(config)
            except Exception:
                self._fail("traceback")
                return None
            self.rows[self._name]["refused" if found is None else "read or accepted"] += 1
            return found

        return counted

    def _files(self, damage: Any) -> Callable[..., int]:
        def check(path, data, read, number, same=None) -> int:
            path.write_bytes(data)
            whole = read()
            for seed in range(1, self.rounds + 1):
                rng = np.random.default_rng(seed)
                for i in range(number):
                    path.write_bytes(damage[i % len(damage)](data, rng))
                    self._read(read, whole, same)
            return 0

        return check

    def _read(self, read: Callable[[], Any], whole: Any, same: Callable[..., bool] | None) -> None:
        """Reads a damaged file and counts the outcome."""
        try:
            found = read()
        except UsageError as error:
            if len(str(error).splitlines()) == 1:
                self.rows[self._name]["refused"] += 1
            else:
                self._fail("traceback")
        except Exception:
            self._fail("traceback")
        else:
            if same is None or same(whole, found):
                self.rows[self._name]["read or accepted"] += 1
            else:
                self._fail("different")

    def _fail(self, outcome: str) -> None:
        self.rows[self._name][outcome] += 1
        self.failed.append(f"{self._name}: {traceback.format_exc()}")


def table(rows: dict[str, collections.Counter[str]]) -> str:
    """Returns the outcomes as a table in Markdown."""
    lines = [f"| attack | tried | {' | '.join(OUTCOMES)} |", "|---|" + "---:|" * 5]
    for name, found in sorted(rows.items()):
        numbers = " | ".join(f"{found[outcome]:,}" for outcome in OUTCOMES)
        lines.append(f"| {name.replace('_', ' ')} | {found.total():,} | {numbers} |")
    return "\n".join(lines)


def main() -> int:
    """Runs the command line; returns 1 if an attack failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10, help="seeds per attack (default: 10)")
    args = parser.parse_args()
    attacks, started = Attacks(args.rounds), time.monotonic()
    pytest.main([str(FOLDER), "-q", "-p", "no:cacheprovider"], plugins=[attacks])
    print(table(attacks.rows), f"{time.monotonic() - started:.0f} s", sep="\n\n")
    print(*attacks.failed[:10], sep="\n")
    return bool(attacks.failed)


if __name__ == "__main__":
    sys.exit(main())
