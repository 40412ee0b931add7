"""What a run says while it runs: `metrics.jsonl`, and a progress line on the terminal."""

import json
import sys
import time
from collections.abc import Mapping
from typing import Any

from etils import epath
from tqdm import tqdm

from kd_jax.files import write_atomically


class MetricsLog:
    """`metrics.jsonl`: one JSON object a line, the steps ascending.

    Every line rewrites the file, so that a kill leaves whole lines only, in buckets too.
    """

    def __init__(self, path: epath.Path, step: int, enabled: bool = True):
        """Goes on with a log, without the lines after `step`."""
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
    """Where a stage stands: a bar on a terminal, elsewhere a line every ten seconds."""

    def __init__(self, name: str, steps: int, batch_size: int, enabled: bool = True):
        self._name, self._steps, self._batch_size = name, steps, batch_size
        self._enabled = enabled
        self._images, self._seconds = 0, 0.0
        self._since = self._printed = time.monotonic()
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
        """Speed of training in this process, compilation and evaluation left out; 0 at first."""
        return self._images / self._seconds if self._seconds else 0.0

    def pause(self) -> None:
        """Time from here to the next `advance` is not training."""
        self._since = None

    def advance(self, step: int, steps: int, loss: float) -> None:
        """Says that `steps` more steps are done, up to `step`."""
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
