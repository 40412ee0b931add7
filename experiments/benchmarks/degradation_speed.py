"""Time to degrade images to random low resolutions, compared with a loop over the images.

    python -m experiments.benchmarks.degradation_speed

`kd_jax.data.preprocessing.Degradation` on a batch of faces of 112x96 pixels, each reduced to 8, 12,
16, 20 or 30 pixels and enlarged again, in one program. Pillow and OpenCV do the same image by
image. The times are the least of several runs in turn. OpenCV is needed: `pip install
'kd_jax[faces]'`.
"""

import sys
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

if not __package__:
    raise SystemExit(
        "error: run `python -m experiments.benchmarks.degradation_speed` in the repository root."
    )

from experiments.benchmarks.timing import fastest
from kd_jax.commands import Parser, exit_code
from kd_jax.core.text import markdown
from kd_jax.data.preprocessing import Degradation
from kd_jax.data.preprocessing.augmentation import example_keys
from kd_jax.data.preprocessing.resolution import opencv

FULL = (112, 96)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return exit_code(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> None:
    parser = Parser(__doc__ or "")
    parser.add_argument("--batch", type=int, default=64, help="images per batch")
    parser.add_argument("--repeats", type=int, default=10, help="runs, of which the fastest counts")
    args = parser.parse(argv)
    times = measured(args.batch, args.repeats)
    device = jax.devices()[0].device_kind
    print(f"{args.batch} faces of {FULL[0]}x{FULL[1]} pixels; {device}, jax {jax.__version__}\n")
    rows = [
        [name, f"{ms:.2f}", f"{1e3 * args.batch / ms:,.0f}", f"{ms / times['kd_jax']:.2f}"]
        for name, ms in times.items()
    ]
    print(markdown(("by", "ms", "images/s", "times kd_jax'"), rows))


def measured(batch: int, repeats: int) -> dict[str, float]:
    """Returns the milliseconds per batch, by library."""
    cv2, rng = opencv("This benchmark"), np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, *FULL, 3), dtype=np.uint8)
    degradation = Degradation(probability=1.0)
    sizes = rng.choice(degradation.sizes, batch).tolist()
    width_and_height = FULL[::-1]

    def by_pillow() -> np.ndarray:
        made = np.empty_like(images)
        for i, size in enumerate(sizes):
            low = Image.fromarray(images[i]).resize((size, size), Image.Resampling.BICUBIC)
            made[i] = np.asarray(low.resize(width_and_height, Image.Resampling.BICUBIC))
        return made

    def by_opencv() -> np.ndarray:
        made = np.empty_like(images)
        for i, size in enumerate(sizes):
            low = cv2.resize(images[i], (size, size), interpolation=cv2.INTER_AREA)
            made[i] = cv2.resize(low, width_and_height, interpolation=cv2.INTER_CUBIC)
        return made

    whole = jax.device_put(images)
    keys = example_keys(jax.random.key(0), jnp.arange(batch))
    run = jax.jit(lambda keys, images: degradation(keys, images.astype(jnp.float32)))
    return fastest(
        {
            "kd_jax": lambda: jax.block_until_ready(run(keys, whole)),
            "Pillow, bicubic": by_pillow,
            "OpenCV, area and cubic": by_opencv,
        },
        repeats,
    )


if __name__ == "__main__":
    sys.exit(main())
