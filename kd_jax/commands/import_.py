r"""Imports weights of PyTorch as the folder of a finished stage.

    kd-jax import --weights=cifar10_resnet56.th --network=resnet56 --options.shortcut=A \
        --mean=0.485,0.456,0.406 --std=0.229,0.224,0.225 --out=runs/resnet56
    kd-jax import --weights=resnet50.safetensors --network=resnet50 --options.stem=imagenet

The file is one of PyTorch (.pth, .pt, .th, .bin, .tar), .safetensors or .npz. PyTorch is not
needed, and no code in the file is executed. The names and shapes in it must be those of a table of
the network. `--options.KEY=VALUE` sets an option of the network. `--mean` and `--std` are those of
the images in training, on the scale 0 to 1, in the order red, green, blue; they may be left out
where the table knows them. The folder `--out` can be used in `init_from`, `kd_jax.load`,
`kd-jax evaluate` and `kd-jax embed`. Without `--out`, the command only prints which table fits.
`init_from` in a config takes the file too, without this command.
"""

import argparse
import ast
import math
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from kd_jax.commands import _cli
from kd_jax.core.errors import UsageError
from kd_jax.core.files import output_folder

_EXAMPLE = (
    "kd-jax import --weights=resnet56.th --network=resnet56 --options.shortcut=A"
    " --mean=0.485,0.456,0.406 --std=0.229,0.224,0.225 --out=runs/resnet56"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return _cli.exit_code(lambda: _run([*(sys.argv[1:] if argv is None else argv)]))


def _run(argv: list[str]) -> None:
    parser = _cli.Parser(__doc__, _EXAMPLE, command="import")
    add = parser.add_argument
    add("--weights", help="file of PyTorch weights")
    add("--network", help="name of the network, such as resnet56")
    add("--options.KEY", metavar="VALUE", help="option KEY of the network, a literal of Python")
    add("--mean", help="mean of each channel of the images in training, or one for all")
    add("--std", help="standard deviation of each channel, or one for all")
    add("--size", help="HEIGHTxWIDTH of the network's input (default: that of the original)")
    add("--num_classes", type=_cli.count, help="number of classes (default: that of the file)")
    add("--filter", default="bicubic", help="filter that resizes images (default: %(default)s)")
    add("--bgr", action=argparse.BooleanOptionalAction, default=None,
        help="swap the channels of weights that see BGR (default: as the original)")  # fmt: skip
    add("--out", help="the folder to write; it must not exist, or be empty")
    assignments, rest = _cli.assignments(argv, "--options.")
    options = {key: _literal(text) for key, text in assignments.items()}
    args = parser.parse(rest)
    parser.require(args, "weights", "network")
    size = _cli.height_and_width(args.size)
    mean, std = _numbers(args.mean, "--mean"), _numbers(args.std, "--std")
    if std is not None and min(std) <= 0:
        raise UsageError(f"--std={args.std} must be greater than 0.")

    from kd_jax.data.preprocessing import check_filter
    from kd_jax.pretrained.pytorch import check_folder, read_network

    check_filter(args.filter, "--filter")
    if args.out:
        output_folder(args.out, "--out")
        check_folder(args.out, "--out")
    imported = read_network(
        args.weights,
        args.network,
        options=options,
        num_classes=args.num_classes,
        size=size,
        bgr=args.bgr,
    )
    known = imported.normalization
    if args.out and (args.mean or args.std or known is None):
        parser.require(args, "mean", "std")
    elif known is not None:
        mean, std = known.mean, known.std
    print("\n".join(_lines(imported, args, options)))
    if args.out:
        _write(imported, args, options, mean, std)
        print(f"{args.out} can be used as a finished stage")


def _literal(text: str) -> Any:
    """Reads a literal of Python; a word without quotes is a string."""
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return text


def _numbers(text: str | None, option: str) -> tuple[float, ...] | None:
    """Reads numbers such as `0.485,0.456,0.406`; None stays None."""
    if text is None:
        return None
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = (math.nan,)
    if not all(map(math.isfinite, numbers)):
        raise UsageError(
            f"{option}={text} must be numbers separated by commas, such as 0.5,0.5,0.5."
        )
    return numbers


def _lines(imported: Any, args: argparse.Namespace, options: dict[str, Any]) -> Iterator[str]:
    """Yields the description of an imported network."""
    import jax

    table, params = imported.table, imported.variables["params"]
    given = ", ".join(f"{key} = {value!r}" for key, value in options.items())
    yield f"network     {args.network}{f' with {given}' if given else ''}"
    yield f"table       {table.name}: {table.originals}"
    yield f"parameters  {sum(leaf.size for leaf in jax.tree.leaves(params)):,}"
    head = ", random: the file has no classifier that fits" if table.classifier is None else ""
    yield f"classes     {imported.num_classes}{head}"
    height, width = table.size
    order = " (the weights see BGR)" if imported.bgr else ""
    yield f"images      {height}x{width}, channels: {imported.channels}{order}"
    if (known := imported.normalization) is not None:
        yield f"originals   mean {_text(known.mean)}, std {_text(known.std)}"
    yield f"sha256      {imported.file.sha256}"
    if table.note:
        yield f"note        {table.note}"


def _write(
    imported: Any,
    args: argparse.Namespace,
    options: dict[str, Any],
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
) -> None:
    """Writes the folder."""
    from kd_jax import models
    from kd_jax.pretrained import NetworkInfo
    from kd_jax.pretrained.pytorch import write_stage

    origin = models.NETWORKS.origin(args.network)
    info = NetworkInfo(
        name=args.network,
        options=options,
        num_classes=imported.num_classes,
        size=imported.table.size,
        filter=args.filter,
        mean=_per_channel(mean, imported.channels, "--mean"),
        std=_per_channel(std, imported.channels, "--std"),
        imports=() if origin is None else (origin,),
    )
    source = {
        "file": imported.file.name,
        "sha256": imported.file.sha256,
        "table": imported.table.name,
        "bgr": imported.bgr,
        "random_classifier": imported.table.classifier is None,
    }
    write_stage(args.out, imported.variables, info, source, key="--out")


def _text(numbers: Sequence[float]) -> str:
    """Returns numbers as `--mean` takes them."""
    return ",".join(f"{number:g}" for number in numbers)


def _per_channel(
    numbers: tuple[float, ...] | None, channels: int, option: str
) -> tuple[float, ...]:
    """Returns one number per channel."""
    numbers = numbers or ()
    if len(numbers) == 1:
        return numbers * channels
    if len(numbers) != channels:
        raise UsageError(
            f"{option} has {len(numbers)} numbers, but the network sees {channels} channels: give"
            " one per channel, or one for all."
        )
    return numbers


if __name__ == "__main__":
    sys.exit(main())
