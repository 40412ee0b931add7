r"""Compiles training steps and losses for accelerators that this machine does not have.

    python -m experiments.benchmarks.ahead_of_time --topology=v5e:2x2 \
        --config=horkd/cifar100:baselines=true --stage=student_direct --batch_size=64
    python -m experiments.benchmarks.ahead_of_time --topology=v5e:4x4 \
        --loss=triplet_relation --sizes=1024x512
    python -m experiments.benchmarks.ahead_of_time --platform=cuda --target=h100 --loss=mk_mmd

The compilers of the accelerators are asked, no device is needed: `pip install libtpu` for TPUs,
`pip install 'jax[cuda12]'` for GPUs. The program is the one that `kd-jax train` compiles, on images
of which only the size is given (`--images=50000x32x32 --classes=100`).

The report has the time to compile, the memory against that of the chip, the arithmetic and its
lower bound, the compiler's estimate of the time by scope (TPUs only), the number of kernels, the
collectives, the types of all convolutions and products, and the copies.

What it cannot know: the estimate is the sum of the compiler's cycles over the clock of the chip. It
has no gathers, scatters, sorts, latencies of collectives, and no time of the host. It is a lower
bound, for comparing variants, and no measured throughput. The bytes of XLA's analysis count the
body of a loop once. It has none for GPUs: there they are those of all results, times two.
"""

import argparse
import collections
import json
import os
import re
import sys
import time
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax

if not __package__:
    raise SystemExit(
        "error: run `python -m experiments.benchmarks.ahead_of_time` in the repository root."
    )

from experiments.benchmarks import ahead_programs, hlo, operations, targets
from experiments.benchmarks.loss_cases import CASES, SIZES
from kd_jax.commands import Parser, exit_code
from kd_jax.core.errors import UsageError, check_choice
from kd_jax.core.files import absolute_path, write_atomically
from kd_jax.core.text import markdown
from kd_jax.experiment.config_files import load_config

EXAMPLE = "python -m experiments.benchmarks.ahead_of_time --topology=v5e:1x1 --loss=rkd_distance"
ROLE = re.compile(r"[(/](teacher|assistant|student|peer\w*)[)/]")
COPIES = ("copy", "copy-start", "transpose", "reshape")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return exit_code(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> None:
    args = _parse(argv)
    sizes = _numbers(args.sizes, "--sizes") if args.sizes else None
    images = _numbers(args.images, "--images", 3)
    if args.platform == "tpu":
        target = targets.tpu(args.topology)
    else:
        target = targets.cuda(args.target, args.description)
    out = absolute_path(args.out) if args.out else None
    found, text = measure(_subject(args, sizes, images, target), target)
    print(report(found))
    if args.hlo:
        write_atomically(absolute_path(args.hlo), text)
    if out is not None:
        write_atomically(out, json.dumps(found, indent=1) + "\n")


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__ or "", EXAMPLE)
    add = parser.add_argument
    add("--platform", choices=("tpu", "cuda"), default="tpu", help="(default: %(default)s)")
    add("--topology", default="v5e:1x1", help="TPU slice (default: %(default)s)")
    add("--target", default="h100", help="GPU (default: %(default)s)")
    add("--description", help="XLA's description of the GPU, a text file (default: the target's)")
    add("--config", help="config whose stage is compiled")
    add("--stage", help="stage (default: the last)")
    add("--batch_size", type=int, help="images per step, over all devices")
    add("--steps", type=int, default=0, help="steps per call (default: as in a run)")
    add("--images", default="50000x32x32", help="NUMBERxHEIGHTxWIDTH (default: %(default)s)")
    add("--classes", type=int, default=100, help="number of classes (default: %(default)s)")
    add("--loss", help="loss that is compiled instead of a stage")
    add("--sizes", help="sizes of its inputs, such as 1024x512 for N x D")
    add("--out", help="JSON file of the results")
    add("--hlo", help="text file of the compiled program")
    args = parser.parse(argv)
    if (args.config is None) == (args.loss is None):
        raise UsageError(f"Name either --config or --loss: type for example `{EXAMPLE}`.")
    return args


def _subject(
    args: argparse.Namespace,
    sizes: tuple[int, ...] | None,
    images: tuple[int, ...],
    target: targets.Target,
) -> ahead_programs.Subject:
    if args.loss is not None:
        case = CASES[check_choice(args.loss, CASES, "--loss")]
        return ahead_programs.loss(args.loss, sizes or SIZES[case.sizes[0]][1][0], target.mesh)
    number, height, width = images
    config = load_config(args.config).to_dict()
    config["data"] |= {
        "source": {
            "name": "shaped",
            "number": number,
            "height": height,
            "width": width,
            "num_classes": args.classes,
        },
        "train_split": "train",
        "test_split": "test",
    }
    return ahead_programs.step(
        config, args.stage, target.mesh, target.chip.memory, args.batch_size, args.steps
    )


def _numbers(text: str, option: str, count: int | None = None) -> tuple[int, ...]:
    parts = text.split("x")
    right = all(re.fullmatch(r"[1-9]\d{0,11}", part) for part in parts)
    if not right or count not in (None, len(parts)):
        raise UsageError(f"{option}={text} must be whole numbers joined by x, such as 1024x512.")
    return tuple(map(int, parts))


# ---------------------------------------------------------------------------------- analysis


def measure(subject: ahead_programs.Subject, target: targets.Target) -> tuple[dict[str, Any], str]:
    """Compiles a program and returns what the compiler says of it, and its text."""
    started, cpu = time.monotonic(), time.process_time()
    traced = subject.function.trace(*subject.arguments)
    lowered = traced.lower()
    lowering = time.monotonic() - started
    compiled = lowered.compile()
    seconds = time.monotonic() - started - lowering
    memory, text = compiled.memory_analysis(), compiled.as_text()
    work = operations.count(traced.jaxpr.jaxpr, subject.steps)
    work *= 1 / subject.steps / target.mesh.size
    program, chip = hlo.read(text, subject.steps), target.chip
    kernels = sum(each.times for each in program.kernels()) / subject.steps
    accessed = (compiled.cost_analysis() or {}).get("bytes accessed", 0.0)
    if not accessed:  # on GPUs: each result is written once and read once
        accessed = 2 * sum(each.times * each.bytes for each in program.kernels()) / subject.steps
    scopes: dict[str, float] = collections.defaultdict(float)
    for each in program.instructions:
        scopes[scope(each)] += each.cycles / chip.clock * 1e3 / subject.steps
    total = sum(scopes.values())
    held = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    held += memory.output_size_in_bytes - memory.alias_size_in_bytes
    collectives: collections.Counter[str] = collections.Counter()
    for each in program.collectives():
        collectives[hlo.kind(each.code)] += each.times
    moved = sum(each.times * each.bytes for each in program.collectives())
    return {
        "program": subject.title,
        "device": target.name,
        "jax": jax.__version__,
        "lower_seconds": round(lowering, 1),
        "compile_seconds": round(seconds, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "argument_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "aliased_bytes": memory.alias_size_in_bytes,
        "memory_fraction": held / chip.memory,
        "flops": work.products + work.others,
        "product_flops": work.products,
        "bytes": accessed,
        "arithmetic_ms": 1e3 * max(work.products / chip.operations, work.others / chip.vectors),
        "memory_ms": 1e3 * accessed / chip.bandwidth,
        "estimated_ms": total,
        "images_per_second": 1e3 * subject.images / total if subject.images and total else None,
        "scopes": {
            name: ms for name, ms in sorted(scopes.items(), key=lambda item: -item[1]) if ms
        },
        "kernels": kernels,
        "collectives": {name: n / subject.steps for name, n in collectives.items()},
        "collective_bytes": moved / subject.steps,
        "collectives_in_loops": sum(each.times > subject.steps for each in program.collectives()),
        "products": {
            f"{each.operation} {' x '.join(each.operands)} -> {each.result}": runs / subject.steps
            for each, runs in program.products.items()
        },
        "copies": _copies(program, subject.steps * total * chip.clock / 1e3),
    }, text


def scope(instruction: hlo.Instruction) -> str:
    """Returns the part of a step that an instruction belongs to."""
    if hlo.kind(instruction.code) in hlo.COLLECTIVES:
        return "collectives"
    inside = [
        (frame.file.rpartition("kd_jax/")[2], frame.function)
        for frame in instruction.frames
        if "kd_jax/" in frame.file
    ]
    names = [name.partition(".")[0] for file, name in inside if file.startswith("losses/")]
    public = [name for name in names if name in CASES]
    if names:
        return f"loss {(public or names)[-1 if public else 0]}"
    if found := ROLE.search(instruction.scope):
        return f"{found[1]} {'backward' if 'transpose(' in instruction.scope else 'forward'}"
    for folder, words in (("methods/", "method"), ("data/", "views")):
        if any(file.startswith(folder) for file, _ in inside):
            return words
    if any("optax" in frame.file for frame in instruction.frames):
        return "optimizer"
    return "other"


def _copies(program: hlo.Program, cycles: float) -> list[dict[str, Any]]:
    """Returns the copies and relayouts that take more than a hundredth of the time."""
    return [
        {"name": each.name, "type": each.type[:80], "fraction": each.cycles / cycles}
        for each in sorted(program.instructions, key=lambda each: -each.cycles)
        if each.code in COPIES and each.cycles > 0.01 * cycles
    ]


def report(found: dict[str, Any]) -> str:
    """Returns the results as text."""
    mebi = 2**20
    rows = [[name, f"{ms:.3f}"] for name, ms in found["scopes"].items()]
    rate = found["images_per_second"]
    lines = [
        f"{found['program']}; {found['device']}, jax {found['jax']}",
        "",
        f"Compiled in {found['compile_seconds']} s ({found['cpu_seconds']} s of CPU time, with"
        f" {found['lower_seconds']} s of tracing).",
        f"Memory of each chip: arguments {found['argument_bytes'] / mebi:.0f} MiB, temporaries"
        f" {found['temporary_bytes'] / mebi:.0f} MiB, reused {found['aliased_bytes'] / mebi:.0f}"
        f" MiB; {found['memory_fraction']:.1%} of the chip.",
        f"Bounds per step: arithmetic {found['arithmetic_ms']:.3f} ms"
        f" ({found['flops'] / 1e9:.1f} GFLOP), memory {found['memory_ms']:.3f} ms"
        f" ({found['bytes'] / 1e9:.2f} GB).",
        f"Kernels per step: {found['kernels']:,.0f}.",
        f"Collectives per step: {found['collectives'] or 'none'},"
        f" {found['collective_bytes'] / 1e6:.1f} MB, {found['collectives_in_loops']} in loops.",
        f"Products: {found['products']}.",
    ]
    lines += [f"Copy: {each['fraction']:.1%} {each['type']}" for each in found["copies"]]
    if found["estimated_ms"]:
        lines += [
            f"Estimated: at least {found['estimated_ms']:.3f} ms per step"
            + (f", at most {rate:,.0f} images/s on all chips" if rate else "")
            + f"; {found['arithmetic_ms'] / found['estimated_ms']:.0%} of it is arithmetic.",
            "",
            markdown(("scope", "ms per step"), rows),
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
