"""Output of a run while it trains: `metrics.jsonl`, and a progress line on the terminal."""

import json
import sys
import time
from collections.abc import Mapping
from typing import Any

from etils import epath
from tqdm import tqdm

from kd_jax.core.files import write_atomically

_PRINT_SECONDS = 10.0
"""Time between two lines of progress where there is no terminal."""


class MetricsLog:
    """`metrics.jsonl`: one JSON object per line, in the order of the steps.

    Each new line rewrites the whole file, so that a killed run leaves complete lines, in buckets
    too.
    """

    def __init__(self, path: epath.Path, step: int, enabled: bool = True):
        """Resumes a log; lines after `step` are removed."""
        self._path = path
        self._enabled = enabled
        lines = path.read_text().splitlines() if path.exists() else []
        self._lines = [line for line in lines if json.loads(line)["step"] <= step]

    def write(self, entry: Mapping[str, Any]) -> None:
        """Adds a line."""
        self._lines.append(json.dumps(entry))
        if self._enabled:
            write_atomically(self._path, "".join(line + "\n" for line in self._lines))


class ProgressLine:
    """Progress of a stage: a bar on a terminal, elsewhere a line every ten seconds.

    The time left of the whole run counts evaluations and saves as they took until now.
    """

    def __init__(
        self,
        name: str,
        steps: int,
        batch_size: int,
        enabled: bool = True,
        *,
        later: float = 0.0,
    ):
        """Begins.

        Args:
            name: name of the stage.
            steps: number of steps of the stage.
            batch_size: number of images per step.
            enabled: print; only one process of a run does.
            later: number of steps of this stage that take as long as all later stages.
        """
        self._name, self._steps, self._batch_size = name, steps, batch_size
        self._enabled, self._later = enabled, later
        self._images, self._seconds, self._away = 0, 0.0, 0.0
        self._printed = time.monotonic()
        self._since: float | None = self._printed
        self._paused: float | None = None
        self._advanced = self._compiled = False
        self._bar = None
        if enabled and sys.stderr.isatty():
            self._bar = tqdm(total=steps, desc=name, unit="step", dynamic_ncols=True)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if self._bar is not None:
            self._bar.close()

    @property
    def images_per_second(self) -> float:
        """Returns the training speed, without compilation and evaluation; 0 at first."""
        return self._images / self._seconds if self._seconds else 0.0

    @property
    def step_seconds(self) -> float:
        """Returns the time of a step, without compilation and evaluation; 0 at first."""
        return self._seconds * self._batch_size / self._images if self._images else 0.0

    def pause(self) -> None:
        """Leaves out the time from now to the next `begin` or `advance`: it is not training."""
        if self._since is not None:
            self._paused = time.monotonic()
        self._since = None

    def begin(self) -> None:
        """Ends a pause before the next step starts. The first step, which compiles, is left out."""
        if self._since is not None or not self._advanced:
            return
        self._since = time.monotonic()
        if self._paused is not None and self._compiled:
            self._away += self._since - self._paused
        self._compiled = True  # the first pause compiles the evaluation

    def advance(self, step: int, steps: int, loss: float) -> None:
        """Reports that `steps` more steps are completed, up to `step`."""
        now, self._advanced = time.monotonic(), True
        if self._since is not None:
            self._images += steps * self._batch_size
            self._seconds += now - self._since
        self._since = now
        if self._bar is not None:
            self._bar.n = step
            self._bar.set_postfix_str(", ".join([f"loss {loss:.4g}", *self._pace(step)]))
        elif now - self._printed >= _PRINT_SECONDS:
            self._printed = now
            self.say(", ".join([f"step {step}/{self._steps}, loss {loss:.4g}", *self._pace(step)]))

    def _pace(self, step: int) -> list[str]:
        """Returns the speed and the time left, or nothing before the speed is known."""
        if not (seconds := self.step_seconds):
            return []
        left, whole = self._steps - step, 1 + self._away / self._seconds
        words = [f"{self.images_per_second:,.0f} images/s", f"{duration(left * seconds)} left"]
        if self._later:
            words.append(f"about {duration((left + self._later) * seconds * whole)} for all stages")
        return words

    def say(self, text: str) -> None:
        """Prints a line without breaking the bar."""
        if self._enabled:
            tqdm.write(f"[{self._name}] {text}", file=sys.stderr)


def duration(seconds: float) -> str:
    """Returns a time in words, as in `1m30s` or `2h05m`."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{whole % 60:02}s"
