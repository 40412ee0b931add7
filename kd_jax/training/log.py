"""Output of a run while it trains: `metrics.jsonl`, and a progress line on the terminal."""

import json
import sys
import time
from collections.abc import Mapping
from typing import Any

from etils import epath
from tqdm import tqdm

from kd_jax.core.files import write_atomically


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
    """Progress of a stage: a bar on a terminal, elsewhere a line every ten seconds."""

    def __init__(self, name: str, steps: int, batch_size: int, enabled: bool = True):
        self._name, self._steps, self._batch_size = name, steps, batch_size
        self._enabled = enabled
        self._images, self._seconds = 0, 0.0
        self._printed = time.monotonic()
        self._since: float | None = self._printed
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
        """Leaves out the time from now to the next `advance`: it is not training."""
        self._since = None

    def advance(self, step: int, steps: int, loss: float) -> None:
        """Reports that `steps` more steps are completed, up to `step`."""
        now = time.monotonic()
        if self._since is not None:
            self._images += steps * self._batch_size
            self._seconds += now - self._since
        self._since = now
        if self._bar is not None:
            self._bar.n = step
            self._bar.set_postfix_str(f"loss {loss:.4g}, {self.images_per_second:,.0f} images/s")
        elif now - self._printed >= 10:
            self._printed = now
            self.say(f"step {step}/{self._steps}, loss {loss:.4g}, {self._pace(step)}")

    def _pace(self, step: int) -> str:
        speed = self.images_per_second
        if not speed:
            return "compiling"
        seconds = round((self._steps - step) * self._batch_size / speed)
        hours, minutes = seconds // 3600, seconds // 60 % 60
        left = f"{hours}h{minutes:02}m" if hours else f"{minutes}m{seconds % 60:02}s"
        return f"{speed:,.0f} images/s, {left} left"

    def say(self, text: str) -> None:
        """Prints a line without breaking the bar."""
        if self._enabled:
            tqdm.write(f"[{self._name}] {text}", file=sys.stderr)
