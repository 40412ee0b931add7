"""Tables of measured results: rows that a page shows, read from `experiments/results`.

A number has one home, the file of results. A row that is no longer there is an error of the build.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from docs.generate.files import ROOT


class Table(NamedTuple):
    """A table of a Markdown file: the heading above it, its header and its rows."""

    heading: str
    header: list[str]
    rule: str
    rows: list[list[str]]


def read(path: str) -> Iterator[Table]:
    """Yields the tables of a file, which is relative to the root of the repository."""
    heading, lines = "", (ROOT / path).read_text().splitlines()
    for i, line in enumerate(lines):
        if match := re.match(r"#+ (.*)", line):
            heading = match[1]
        if re.match(r"\|[\s:|-]+\|$", line) and lines[i - 1].startswith("|"):
            rows = []
            for row in lines[i + 1 :]:
                if not row.startswith("|"):
                    break
                rows.append(_cells(row))
            yield Table(heading, _cells(lines[i - 1]), line, rows)


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def chosen(path: str, first: str, rows: Sequence[str]) -> str:
    """Returns the rows of a table whose first cells begin with some words.

    Args:
        path: file of results, relative to the root of the repository.
        first: first cell of the header, to find the table.
        rows: beginnings of the first cells.

    Raises:
        ValueError: if no table has all of them.
    """
    for table in read(path):
        plain = [row[0].strip("*") for row in table.rows]
        places = [[i for i, cell in enumerate(plain) if cell.startswith(word)] for word in rows]
        if table.header[0] == first and all(places):
            return _markdown(table, [table.rows[found[0]] for found in places])
    raise ValueError(f"{path} has no table {first!r} with the rows {', '.join(rows)}")


def of_method(paths: Sequence[str], name: str) -> Iterator[tuple[str, str]]:
    """Yields path and rows of the tables that have a row for a method, by the name in configs."""
    for path in paths:
        for table in read(path):
            found = [row for row in table.rows if row[0].strip("*`") == name]
            if table.header[0] == "method" and found:
                alone = [row for row in table.rows if row[0].strip("*`") == "the student alone"]
                yield path, _markdown(table, [*alone, *found])


def _markdown(table: Table, rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (table.header, *rows)]
    return "\n".join([lines[0], table.rule, *lines[1:]])
