r"""Measures time, parameters, multiply-adds and memory of trained networks.

    kd-jax latency --network=runs/quickstart/teacher --network=runs/quickstart/student

Each network computes logits, probabilities and embeddings of uint8 images of its own resolution,
which are on the device already. The times are medians of 10 to 200 runs after three runs to warm
up, on one device. Multiply-adds are those of the convolutions and matrix products for one image,
counted in the program. `memory` is what the program needs for the largest batch, in addition to
weights, images and outputs, as XLA reports it. `speed` is the time of the first network divided by
that of each network, for the largest batch.

`--role` is given once for all networks, or once per network.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from kd_jax.commands import _cli
from kd_jax.core.errors import UsageError
from kd_jax.core.files import output_file, write_file
from kd_jax.core.text import markdown
from kd_jax.data.local_files import is_count

_EXAMPLE = "kd-jax latency --network=runs/quickstart/teacher --network=runs/quickstart/student"
_LARGEST = 2**20
"""Maximum number of images per batch."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return _cli.exit_code(lambda: _run([*(sys.argv[1:] if argv is None else argv)]))


def _run(argv: list[str]) -> None:
    parser = _cli.Parser(__doc__, _EXAMPLE, command="latency")
    add = parser.add_argument
    add("--network", action="append", default=[],
        help="folder of a finished stage; it may be given several times")  # fmt: skip
    add("--role", action="append", default=[], help="role of the network in the stage")
    add("--checkpoint", default="last", help="checkpoint: last or best (default: %(default)s)")
    add("--batch_sizes", default="1,64", help="numbers of images per batch (default: %(default)s)")
    add("--out", help="JSON file for the results")
    args = parser.parse(argv)
    parser.require(args, "network")
    sizes, roles = _batch_sizes(args.batch_sizes), _roles(args)
    path = output_file(args.out, "--out") if args.out else None

    import jax

    from kd_jax.pretrained import load
    from kd_jax.pretrained.latency import measure

    networks = []
    for folder, role in zip(args.network, roles, strict=True):
        trained = load(folder, role=role, checkpoint=args.checkpoint, key="--network")
        cost = measure(trained, sizes)
        networks.append(
            {
                "network": folder,
                "role": role,
                "architecture": trained.info.name,
                "size": list(trained.info.size),
                **cost._asdict(),
            }
        )
    device = jax.devices()[0]
    results = {
        "device": {"platform": device.platform, "kind": device.device_kind},
        "checkpoint": args.checkpoint,
        "networks": networks,
    }
    print(_table(networks, sizes))
    print(f"\nmeasured on {device.device_kind} ({device.platform}), one device")
    if path is not None:
        write_file(path, json.dumps(results, indent=2) + "\n", make_folder=True)


def _batch_sizes(text: str) -> list[int]:
    """Reads a value such as `1,64`; returns the numbers in ascending order."""
    parts = text.split(",")
    if not all(is_count(part) and 1 <= int(part) <= _LARGEST for part in parts):
        raise UsageError(
            f"--batch_sizes={text} must be numbers from 1 to {_LARGEST} separated by commas, such"
            " as 1,64."
        )
    return sorted({int(part) for part in parts})


def _roles(args: argparse.Namespace) -> list[str | None]:
    """Returns one role per network."""
    if len(args.role) == len(args.network):
        return list(args.role)
    if len(args.role) > 1:
        raise UsageError(
            f"--role is given {len(args.role)} times and --network {len(args.network)} times: give"
            " --role once, or once per network."
        )
    return (args.role or [None]) * len(args.network)


def _table(networks: Sequence[Mapping[str, Any]], sizes: Sequence[int]) -> str:
    """Returns one row per network."""
    largest = sizes[-1]
    first = networks[0]["milliseconds"][largest]
    columns = (
        *("network", "architecture", "resolution", "parameters", "multiply-adds"),
        *(f"ms at {size}" for size in sizes),
        *("images/s", "speed", "weights", f"memory at {largest}"),
    )
    rows = []
    for cost in networks:
        name = cost["network"] if cost["role"] is None else f"{cost['network']} ({cost['role']})"
        times = cost["milliseconds"]
        height, width = cost["size"]
        working = cost["working_bytes"][largest]
        rows.append(
            [
                *(name, cost["architecture"], f"{height}x{width}", f"{cost['parameters']:,}"),
                f"{cost['multiply_adds'] / 1e6:,.2f} M",
                *(f"{times[size]:.3g}" for size in sizes),
                f"{1000 * largest / times[largest]:,.0f}",
                f"{first / times[largest]:.2f}",
                f"{cost['weight_bytes'] / 2**20:.2f} MiB",
                "unknown" if working is None else f"{working / 2**20:.2f} MiB",
            ]
        )
    return markdown(columns, rows, left=2)


if __name__ == "__main__":
    sys.exit(main())
