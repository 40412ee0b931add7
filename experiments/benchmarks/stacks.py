"""The lines of Python from which the instructions of a program come."""

import re
from typing import NamedTuple


class Frame(NamedTuple):
    """A function on the stack of Python when an operation was traced."""

    file: str
    function: str


class Frames:
    """The tables of a program that give the stack of Python of each operation."""

    def __init__(self, text: str):
        rows = dict[str, dict[int, str]]()
        for title in ("FileNames", "FunctionNames", "FileLocations", "StackFrames"):
            block = re.search(rf"^{title}\n((?:\d+ .*\n)*)", text, re.MULTILINE)
            lines = block[1].splitlines() if block else []
            rows[title] = {int(n): row for n, _, row in (line.partition(" ") for line in lines)}
        self._files = {n: row.strip('"') for n, row in rows["FileNames"].items()}
        self._functions = {n: row.strip('"') for n, row in rows["FunctionNames"].items()}
        self._locations, self._stack = rows["FileLocations"], rows["StackFrames"]

    def __call__(self, number: int) -> tuple[Frame, ...]:
        """Returns the frames of a number, outermost first."""
        found: list[Frame] = []
        while (row := self._stack.get(number)) is not None:
            place = self._locations.get(field(row, "file_location_id"), "")
            file = self._files.get(field(place, "file_name_id"), "")
            found.append(Frame(file, self._functions.get(field(place, "function_name_id"), "")))
            number = field(row, "parent_frame_id") - 1  # the table counts from 1, the ids from 2
        return tuple(reversed(found))


def field(row: str, name: str) -> int:
    """Returns the number `name=NUMBER` of a line; 0 without it."""
    return int(found[1]) if (found := re.search(rf"{name}=(\d+)", row)) else 0
