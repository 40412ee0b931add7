"""Text for people: tables in Markdown."""

from collections.abc import Iterable, Sequence


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """Returns a Markdown table that is aligned on a terminal.

    Args:
        columns: names of the columns.
        rows: cells of every row.
        left: number of first columns that are aligned to the left.
    """
    table = [columns, *rows]
    widths = [max(3, *(len(row[i]) for row in table)) for i in range(len(columns))]
    rule = ["-" * w if i < left else "-" * (w - 1) + ":" for i, w in enumerate(widths)]

    def line(cells: Sequence[str]) -> str:
        pairs = enumerate(zip(cells, widths, strict=True))
        padded = (cell.ljust(w) if i < left else cell.rjust(w) for i, (cell, w) in pairs)
        return f"| {' | '.join(padded)} |"

    return "\n".join([line(columns), line(rule), *map(line, table[1:])])
