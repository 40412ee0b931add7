"""Charts and matrices as `<svg>` elements, which scale with the page and need no library."""

import base64
import html
import io
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

_WIDTH, _HEIGHT = 480, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 14, 30, 46
"""Margins of the axes, in units of the drawing."""
_COLORS = (
    *("#1f77b4", "#d95f02", "#2ca02c", "#d62728", "#9467bd"),
    *("#8c564b", "#e377c2", "#555555", "#a6a000", "#17a2b8"),
)
_LEGEND_ROW, _LETTER = 18, 7.0
"""Height of a row of the legend, and average width of a letter."""


class Series(NamedTuple):
    """A curve.

    Attributes:
        label: name in the legend.
        x: horizontal positions, `[N]`.
        y: values, `[N]`. NaN is left out.
        margin: half the height of the band around each value, `[N]`; None draws no band.
        most: greatest possible value, at which the band ends.
        dashed: draw a dashed line, which does not hide a line below it.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    margin: Sequence[float] | None = None
    most: float = math.inf
    dashed: bool = False


class _Axis:
    """Maps values to positions, and chooses the ticks."""

    def __init__(self, values: Sequence[float], start: float, end: float, log: bool = False):
        low, high = _range(values, log)
        self._log = log
        self._low, self._high, self._start, self._end = low, high, start, end

    def __call__(self, value: float) -> float:
        change = math.log if self._log else float
        part = (change(value) - change(self._low)) / (change(self._high) - change(self._low))
        return self._start + part * (self._end - self._start)

    def ticks(self) -> list[float]:
        """Returns about five round values."""
        if self._log and self._high > 20 * self._low:
            decades = range(
                math.floor(math.log10(self._low)), math.ceil(math.log10(self._high)) + 1
            )
            every = max(1, len(decades) // 6)
            return [10.0**d for d in decades[::every] if self._low <= 10.0**d <= self._high]
        rough = (self._high - self._low) / 5
        step = 10.0 ** math.floor(math.log10(rough))
        step = next(step * f for f in (1, 2, 5, 10) if step * f >= rough)
        first = math.ceil(self._low / step - 1e-9)
        return [i * step for i in range(first, math.floor(self._high / step + 1e-9) + 1)]


def _range(values: Sequence[float], log: bool) -> tuple[float, float]:
    """Returns the ends of an axis, with some room around the values."""
    low, high = min(values), max(values)
    if log:
        room = max(1.1, (high / low) ** 0.05)
        return low / room, high * room
    room = 0.05 * (high - low) or 0.1 * abs(high) or 0.5
    return low - room, high + room


def chart(
    title: str, x_label: str, y_label: str, series: Sequence[Series], *, log: bool = False
) -> str:
    """Returns curves over common axes, with the legend below.

    Args:
        title: title.
        x_label: label of the horizontal axis, with its unit.
        y_label: label of the vertical axis, with its unit.
        series: the curves.
        log: use a logarithmic vertical axis where all values are above 0.
    """
    shown = [s for s in series if any(map(math.isfinite, s.y))]
    values = [v for s in shown for v in s.y if math.isfinite(v)] or [0.0, 1.0]
    log = log and min(values) > 0
    ends = [
        min(y + sign * m, max(y, s.most))
        for s in shown
        for y, m in zip(s.y, s.margin or (0.0,) * len(s.y), strict=True)
        for sign in (-1, 1)
        if math.isfinite(y)
    ] or values
    places = [x for s in shown for x in s.x] or [0.0, 1.0]
    across = _Axis(places, _LEFT, _WIDTH - _RIGHT)
    up = _Axis(ends, _HEIGHT - _BOTTOM, _TOP, log)
    legend, rows = _legend([s.label for s in shown])
    parts = [*_frame(title, x_label, y_label, across, up)]
    for i, curve in enumerate(shown):
        parts += _curve(curve, _COLORS[i % len(_COLORS)], across, up)
    return _svg(title, [*parts, *legend], _HEIGHT + rows * _LEGEND_ROW + 4)


def _curve(curve: Series, color: str, across: _Axis, up: _Axis) -> Iterator[str]:
    """Yields the band, the line and the points of a curve."""
    rows = [i for i, y in enumerate(curve.y) if math.isfinite(y)]
    points = [(across(curve.x[i]), up(curve.y[i])) for i in rows]
    if curve.margin is not None:
        edge = [
            (across(curve.x[i]), up(min(curve.y[i] + curve.margin[i], curve.most))) for i in rows
        ]
        edge += [(across(curve.x[i]), up(curve.y[i] - curve.margin[i])) for i in rows[::-1]]
        yield f'<polygon points="{_points(edge)}" fill="{color}" fill-opacity="0.15"/>'
    style = f'stroke="{color}" stroke-width="2"' + (
        ' stroke-dasharray="6 4"' if curve.dashed else ""
    )
    yield f'<polyline points="{_points(points)}" fill="none" {style}/>'
    if len(points) < 20:
        for x, y in points:
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>'


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _frame(title: str, x_label: str, y_label: str, across: _Axis, up: _Axis) -> Iterator[str]:
    """Yields the title, the grid, the ticks and the labels of the axes."""
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    yield _text(_WIDTH / 2, 17, title, "middle", 13, bold=True)
    for value in up.ticks():
        y = up(value)
        yield f'<line x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'
        yield _text(_LEFT - 6, y + 4, f"{value:.4g}", "end")
    for value in across.ticks():
        x = across(value)
        yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{bottom}" stroke="#ddd"/>'
        yield _text(x, bottom + 16, f"{value:.4g}", "middle")
    yield (
        f'<rect x="{_LEFT}" y="{_TOP}" width="{right - _LEFT}" height="{bottom - _TOP}"'
        ' fill="none" stroke="#888"/>'
    )
    yield _text((_LEFT + right) / 2, _HEIGHT - 10, x_label, "middle")
    y = (_TOP + bottom) / 2
    yield _text(14, y, y_label, "middle", turn=f' transform="rotate(-90 14 {y:.1f})"')


def _legend(labels: Sequence[str]) -> tuple[list[str], int]:
    """Returns the legend, and its number of rows."""
    parts, x, row = [], float(_LEFT), 0
    for i, label in enumerate(labels):
        width = 26 + _LETTER * len(label) + 12
        if x + width > _WIDTH and x > _LEFT:
            x, row = float(_LEFT), row + 1
        y, color = _HEIGHT + row * _LEGEND_ROW + 8, _COLORS[i % len(_COLORS)]
        parts.append(
            f'<line x1="{x}" x2="{x + 18}" y1="{y}" y2="{y}" stroke="{color}" stroke-width="3"/>'
        )
        parts.append(_text(x + 24, y + 4, label, "start"))
        x += width
    return parts, row + 1


def _text(
    x: float, y: float, text: str, anchor: str, size: int = 12, bold: bool = False, turn: str = ""
) -> str:
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"{weight}{turn}>'
        f"{html.escape(text)}</text>"
    )


def _svg(title: str, parts: Sequence[str], height: float) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" role="img"'
        f' aria-label="{html.escape(title)}" font-family="system-ui, sans-serif" fill="#1a1a1a">'
        + "".join(parts)
        + "</svg>"
    )


def matrix(title: str, counts: np.ndarray) -> str:
    """Returns a confusion matrix; each row is divided by its number of images.

    Args:
        title: title.
        counts: number of images by label (row) and prediction (column), `[C, C]`.
    """
    from PIL import Image

    fractions = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    blue = np.array([8, 64, 129]) - 255.0
    pixels = (255 + fractions[..., None] * blue).round().astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    data, classes = base64.b64encode(file.getvalue()).decode(), len(counts)
    side, left, top = 360.0, 66, 34
    cell = side / classes
    parts = [
        _text(left + side / 2, 17, title, "middle", 13, bold=True),
        f'<image x="{left}" y="{top}" width="{side}" height="{side}" style="image-rendering:'
        f' pixelated" preserveAspectRatio="none" href="data:image/png;base64,{data}"/>',
        f'<rect x="{left}" y="{top}" width="{side}" height="{side}" fill="none" stroke="#888"/>',
    ]
    for i in range(0, classes, max(1, math.ceil(classes / 12))):
        middle = (i + 0.5) * cell
        parts.append(_text(left - 6, top + middle + 4, str(i), "end"))
        parts.append(_text(left + middle, top + side + 16, str(i), "middle"))
    if classes <= 12:
        for (i, j), part in np.ndenumerate(fractions):
            if part > 0:
                x, y = left + (j + 0.5) * cell, top + (i + 0.5) * cell + 4
                color = ' fill="#fff"' if part > 0.5 else ""
                parts.append(_text(x, y, f"{100 * part:.0f}", "middle", 11, turn=color))
    parts.append(_text(left + side / 2, top + side + 36, "predicted class", "middle"))
    y = top + side / 2
    parts.append(
        _text(
            14,
            y,
            "class (percent of its images)",
            "middle",
            turn=f' transform="rotate(-90 14 {y})"',
        )
    )
    return _svg(title, parts, top + side + 46)
