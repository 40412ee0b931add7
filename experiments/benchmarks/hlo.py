"""Reads the optimized HLO of XLA: what is run how often, at what cost, for which line of code."""

import collections
import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from experiments.benchmarks.stacks import Frame, Frames, field

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)
_NO_WORK = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast"),
    *("while", "conditional", "call", "after-all"),
}
_BYTES = {"pred": 1, "bf16": 2, "s4": 0.5, "u4": 0.5}
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) (?:\(.*\) -> .*)?\{\s*$")
_NAME = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = ")
_CODE = re.compile(r"\s*([a-z][\w\-]*)\(")
_ARRAY = re.compile(r"\b(pred|bf16|[a-z]{1,2}\d\w*)\[([\d,]*)\]")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_CALLED = re.compile(r"(?:calls|to_apply|called_computations?)=\{?%?([\w.\-]+)")
_BRANCHES = re.compile(
    r"(?:branch_computations=\{([^}]*)\}|(?:true|false)_computation=([\w.%\-]+))"
)
_LIBRARY = 'custom_call_target="__cu'  # cuDNN or cuBLAS
_OPERATION = re.compile(r'op_name="(?:[^"]*/)?([^"/]*)"')
_TRIPS = re.compile(r'known_trip_count"?:?\s*\{"?n"?:"?(\d+)')


@dataclasses.dataclass(frozen=True)
class Instruction:
    """An instruction that is run by itself, not as a part of a fusion.

    Attributes:
        name: name in the program.
        type: type of the result, such as `f32[64,10]{1,0}`.
        code: kind of the instruction, such as `fusion`.
        times: number of runs, loops included.
        cycles: the compiler's estimate of all runs; 0 without an estimate.
        scope: path of JAX' names, such as `jit(run)/jvp(student)/Conv_0/conv_general_dilated`.
        frames: stack of Python, outermost first.
        channel: number of the channel of a collective; its own name without one.
        text: the line of the program.
    """

    name: str
    type: str
    code: str
    times: int
    cycles: float
    scope: str
    frames: tuple[Frame, ...]
    channel: str
    text: str

    @property
    def bytes(self) -> float:
        """Number of bytes of the result."""
        return type_bytes(self.type)


class Product(NamedTuple):
    """Operation of JAX, such as `dot_general`; dtypes of its operands, and of its result."""

    operation: str
    operands: tuple[str, ...]
    result: str


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled program.

    Attributes:
        instructions: all instructions that are run by themselves.
        products: number of runs of convolutions and matrix products, by the types.
        aliased: number of arguments whose memory holds a result.
    """

    instructions: Sequence[Instruction]
    products: Mapping[Product, int]
    aliased: int

    def collectives(self) -> list[Instruction]:
        """Returns each collective once; the compiler may split one into several instructions."""
        found: dict[str, Instruction] = {}
        for each in self.instructions:
            if kind(each.code) in COLLECTIVES and not each.code.endswith("-done"):
                before = found.get(each.channel)
                if before is None or each.bytes > before.bytes:
                    found[each.channel] = each
        return list(found.values())

    def kernels(self) -> list[Instruction]:
        """Returns the instructions that compute or move data themselves."""
        done = (each for each in self.instructions if not each.code.endswith("-done"))
        return [each for each in done if each.code not in _NO_WORK]


def kind(code: str) -> str:
    """Returns the kind of an instruction without the suffix of asynchronous ones."""
    return code.removesuffix("-start").removesuffix("-done")


def type_bytes(type: str) -> float:
    """Returns the number of bytes of all arrays in a type."""
    total = 0.0
    for dtype, sizes in _ARRAY.findall(type):
        bits = re.search(r"\d+", dtype)
        size = _BYTES.get(dtype, int(bits[0]) / 8 if bits else 4)
        for length in filter(None, sizes.split(",")):
            size *= int(length)
        total += size
    return total


class _Line(NamedTuple):
    name: str
    type: str
    code: str
    text: str


def read(text: str, iterations: int = 1) -> Program:
    """Reads the text of a compiled program.

    Args:
        text: the text, `jax.stages.Compiled.as_text()`.
        iterations: number of iterations of loops for which the compiler does not know it.
    """
    computations, entry = _computations(text)
    times = _times(computations, entry, iterations)
    frames = Frames(text)
    instructions, products = [], collections.Counter[Product]()
    for name, count in times.items():
        types = {line.name: line.type for line in computations[name]}
        inside = name in _fused(computations)
        for line in computations[name]:
            if line.code in ("convolution", "dot") or _LIBRARY in line.text:
                products[_product(line, types)] += count
            if inside:
                continue
            scope, stack = _origin(line, computations, frames)
            cycles, channel = _CYCLES.search(line.text), re.search(r"channel_id=(\d+)", line.text)
            instructions.append(
                Instruction(
                    name=line.name,
                    type=line.type,
                    code=line.code,
                    times=count,
                    cycles=count * float(cycles[1]) if cycles else 0.0,
                    scope=scope,
                    frames=stack,
                    channel=f"{kind(line.code)} {channel[1] if channel else line.name}",
                    text=line.text,
                )
            )
    head = text.partition("entry_computation_layout")[0]
    return Program(instructions, products, len(re.findall(r"(?:may|must)-alias", head)))


def _computations(text: str) -> tuple[dict[str, list[_Line]], str]:
    """Returns the lines of every computation, and the name of the first one to run."""
    found: dict[str, list[_Line]] = {}
    entry, current = "", None
    for text_line in text.splitlines():
        header = None if text_line.startswith(" ") else _HEADER.match(text_line)
        if header:
            current = found.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif text_line.startswith("}"):
            current = None
        elif current is not None and (line := _line(text_line)) is not None:
            current.append(line)
    return found, entry


def _line(text: str) -> _Line | None:
    """Splits a line into name, type and kind of the instruction."""
    name = _NAME.match(text)
    if name is None:
        return None
    start = end = name.end()
    depth = 0
    while end < len(text) and (depth or text[end] != " "):  # a tuple has blanks in parentheses
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(text[end], 0)
        end += 1
    code = _CODE.match(text, end)
    return None if code is None else _Line(name[1], text[start:end], code[1], text)


def _times(
    computations: Mapping[str, Sequence[_Line]], entry: str, iterations: int
) -> dict[str, int]:
    """Returns the number of runs of each computation, from the trip counts of the loops."""
    times: collections.Counter[str] = collections.Counter()

    def visit(name: str, count: int) -> None:
        times[name] += count
        for line in computations.get(name, ()):
            for called, trips in _calls(line, computations, iterations):
                visit(called, count * trips)

    visit(entry, 1)
    return {name: count for name, count in times.items() if name in computations}


def _calls(
    line: _Line, computations: Mapping[str, Sequence[_Line]], iterations: int
) -> Iterator[tuple[str, int]]:
    """Yields the computations that an instruction runs, and how often each."""
    if line.code == "while":
        body = re.search(r"body=%?([\w.\-]+)", line.text)
        if body is not None:
            yield body[1], _trips(line, computations, iterations)
    elif line.code == "conditional":
        for several, single in _BRANCHES.findall(line.text):
            for branch in (several or single).split(","):
                yield branch.strip().lstrip("%"), 1
    elif line.code in ("fusion", "call", "custom-call") or line.code.endswith("-start"):
        called = _CALLED.search(line.text)
        if called is not None and kind(line.code) not in COLLECTIVES:
            yield called[1], 1


def _trips(line: _Line, computations: Mapping[str, Sequence[_Line]], iterations: int) -> int:
    """Returns the trip count of a loop."""
    if known := _TRIPS.search(line.text):
        return int(known[1])
    condition = re.search(r"condition=%?([\w.\-]+)", line.text)
    lines = computations.get(condition[1], ()) if condition else ()
    limits = [
        m[1] for each in lines if (m := re.search(r"s32\[\]\S* constant\((\d+)\)", each.text))
    ]
    return int(limits[0]) if len(limits) == 1 else iterations


def _fused(computations: Mapping[str, Sequence[_Line]]) -> set[str]:
    """Returns the names of the computations that are parts of fusions."""
    return {
        called[1]
        for lines in computations.values()
        for line in lines
        if line.code == "fusion" and (called := _CALLED.search(line.text))
    }


def _product(line: _Line, types: Mapping[str, str]) -> Product:
    names = re.findall(r"[\w.\-]+", line.text.partition(f" {line.code}(")[2].partition(")")[0])
    dtypes = tuple(types.get(name, "?").partition("[")[0] for name in names[:2])
    # On TPUs both become convolutions; the name still says which one it was.
    operation = _OPERATION.search(line.text)
    result = line.type.lstrip("(").partition("[")[0]
    return Product(operation[1] if operation else line.code, dtypes, result)


def _origin(
    line: _Line, computations: Mapping[str, Sequence[_Line]], frames: Frames
) -> tuple[str, tuple[Frame, ...]]:
    """Returns the scope and the stack of an instruction, or of the most frequent one it fuses."""
    lines = [line]
    if "op_name=" not in line.text and (called := _CALLED.search(line.text)):
        lines = list(computations.get(called[1], ()))
    found: collections.Counter[tuple[str, int]] = collections.Counter()
    for each in lines:
        if scope := re.search(r'op_name="([^"]*)"', each.text):
            found[scope[1], field(each.text, "stack_frame_id")] += 1
    (name, number), _ = found.most_common(1)[0] if found else (("", 0), 0)
    return name, frames(number)
