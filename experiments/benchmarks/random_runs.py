"""Runs of the configs on random images, for benchmarks of whole stages."""

import argparse
from pathlib import Path
from typing import Any

import jax
import numpy as np

from kd_jax.commands import Parser
from kd_jax.experiment.config_files import load_config
from kd_jax.experiment.run import Run


def add_options(parser: Parser) -> None:
    """Adds the options of a stage; `settle` gives those without a default their values."""
    add = parser.add_argument
    add("--network", help="network of the student")
    add("--teacher", help="network of the teacher")
    add("--width", type=float, default=1.0, help="width of both (default: %(default)s)")
    add("--resolution", type=int, help="height of the images that the student sees")
    add("--batch", type=int, default=64, help="images per batch, over all devices")
    add("--steps", type=int, help="steps per round (default: 3 on a CPU, else 100)")
    add("--rounds", type=int, default=9, help="rounds after the warm-up (default: %(default)s)")
    add("--dtype", help="dtype of the networks (default: float32 on a CPU, else bfloat16)")
    add("--devices", type=int, help="number of devices (default: all)")
    add("--images", type=int, help="number of training images")


def settle(args: argparse.Namespace, **defaults: Any) -> argparse.Namespace:
    """Sets the options that depend on the device or on the method, where they have no value."""
    on_cpu = jax.default_backend() == "cpu"
    defaults |= {"steps": 3 if on_cpu else 100, "dtype": "float32" if on_cpu else "bfloat16"}
    for name, value in defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    args.teacher = args.teacher or args.network
    return args


def random_run(
    args: argparse.Namespace,
    folder: Path,
    config: str,
    *arguments: str,
    size: tuple[int, int] = (32, 32),
) -> Run:
    """Returns the stages of a config on random images, checked and built, but not run.

    Args:
        args: options of the command line.
        folder: temporary folder of the images and of the run.
        config: name of the config.
        *arguments: further arguments of the config.
        size: height and width of the images.
    """
    write_images(folder / "images.npz", args.images, size)
    networks = f"student={args.network},teacher={args.teacher},resolution={args.resolution}"
    argument = ",".join([networks, f"width={args.width},dtype={args.dtype}", *arguments])
    values = load_config(f"{config}:{argument}").to_dict()
    values["data"] |= {
        "source": {"name": "npz", "path": str(folder / "images.npz")},
        "stream": False,
        "test_split": "train[:1]",
        "batch_size": args.batch,
        "eval_batch_size": args.batch,
    }
    values["num_devices"] = args.devices
    for stage in values["stages"].values():
        # Random labels cannot be learned: a small rate keeps the losses finite.
        stage["optimizers"]["default"]["learning_rate"] = 1e-4
    return Run(values, folder / "run")


def write_images(path: Path, number: int, size: tuple[int, int]) -> None:
    """Writes random images of a height and width, with CIFAR-100's classes, as `.npz`."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (number, *size, 3), dtype=np.uint8)
    np.savez(path, images=images, labels=np.arange(number) % 100)
