"""How fast images are degraded to random low resolutions, beside a loop over them.

    python experiments/benchmarks/degradation.py

`kd_jax.data.Degradation` on a batch of faces of 112x96 pixels, each reduced to 8, 12, 16, 20 or 30
pixels and brought back, in one program; and Pillow and OpenCV doing the same image by image. Times
are the least of several runs taken in turn.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from timing import fastest

from kd_jax.data import Degradation
from kd_jax.data.augmentation import example_keys
from kd_jax.data.resolution import opencv
from kd_jax.report import markdown

FULL = (112, 96)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=64, help="images in a batch")
    parser.add_argument("--repeats", type=int, default=10, help="runs, of which the fastest counts")
    args = parser.parse_args()
    cv2, rng = opencv("This benchmark"), np.random.default_rng(0)
    images = rng.integers(0, 256, (args.batch, *FULL, 3), dtype=np.uint8)
    degradation = Degradation(share=1.0)
    sizes = rng.choice(degradation.sizes, args.batch).tolist()
    width_and_height = FULL[::-1]

    def pillow() -> np.ndarray:
        made = np.empty_like(images)
        for i, size in enumerate(sizes):
            low = Image.fromarray(images[i]).resize((size, size), Image.Resampling.BICUBIC)
            made[i] = low.resize(width_and_height, Image.Resampling.BICUBIC)
        return made

    def by_opencv() -> np.ndarray:
        made = np.empty_like(images)
        for i, size in enumerate(sizes):
            low = cv2.resize(images[i], (size, size), interpolation=cv2.INTER_AREA)
            made[i] = cv2.resize(low, width_and_height, interpolation=cv2.INTER_CUBIC)
        return made

    whole = jax.device_put(images)
    keys = example_keys(jax.random.key(0), jnp.arange(args.batch))
    run = jax.jit(lambda keys, images: degradation(keys, images.astype(jnp.float32)))
    times = fastest(
        {
            "kd_jax": lambda: jax.block_until_ready(run(keys, whole)),
            "Pillow, bicubic": pillow,
            "OpenCV, area and cubic": by_opencv,
        },
        args.repeats,
    )
    device = jax.devices()[0].device_kind
    print(f"{args.batch} faces of {FULL[0]}x{FULL[1]} pixels; {device}, jax {jax.__version__}\n")
    rows = [
        [name, f"{ms:.2f}", f"{1e3 * args.batch / ms:,.0f}", f"{ms / times['kd_jax']:.2f}"]
        for name, ms in times.items()
    ]
    print(markdown(("by", "ms", "images/s", "times kd_jax'"), rows))


if __name__ == "__main__":
    main()
