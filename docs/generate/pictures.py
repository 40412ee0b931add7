"""Pictures of the methods: small SVG drawings of networks, and of the outputs that they compare.

The front matter of a page names the kind of its picture and its words. The colors are those of the
theme, in `site.css`.
"""

import html
import itertools
from collections.abc import Callable, Mapping
from typing import Any

WIDTH = 480
_COLUMNS = {"stem": 78, "map1": 109, "map2": 147, "map3": 185, "embedding": 229, "logits": 275}
"""Middle of each output of a network, from left to right."""
_STAGES = {"map1": (30, 56), "map2": (30, 44), "map3": (30, 32)}
"""Width and height of the stages of a network."""


class Canvas:
    """The elements of a picture."""

    def __init__(self, title: str):
        """Begins an empty picture; the title describes it for readers that do not see it."""
        self.title = title
        self.parts: list[str] = []

    def box(self, x: float, y: float, width: float, height: float, kind: str) -> None:
        """Draws a box around its middle."""
        left, top = x - width / 2, y - height / 2
        self.parts.append(
            f'<rect class="{kind}" x="{left:g}" y="{top:g}" width="{width:g}" height="{height:g}"'
            ' rx="3"/>'
        )

    def text(self, x: float, y: float, words: str, kind: str = "", anchor: str = "middle") -> None:
        """Writes words; `y` is their middle."""
        self.parts.append(
            f'<text class="{kind}" x="{x:g}" y="{y + 4:g}" text-anchor="{anchor}">'
            f"{html.escape(words)}</text>"
        )

    def arrow(self, start: tuple[float, float], end: tuple[float, float], kind: str = "") -> None:
        """Draws an arrow; `kind` is `both` for heads at both ends, or `loss`."""
        heads = 'marker-end="url(#head)"' + (' marker-start="url(#head)"' if "both" in kind else "")
        (x, y), (u, v) = start, end
        self.parts.append(f'<path class="line {kind}" d="M{x:g} {y:g} L{u:g} {v:g}" {heads}/>')

    def pill(self, x: float, y: float, words: str) -> None:
        """Draws the name of a loss."""
        self.box(x, y, 6.6 * len(words) + 14, 20, "loss")
        self.text(x, y, words, "loss")

    def network(self, y: float, name: str, note: str, *, head: bool = True) -> None:
        """Draws a network from its image to its logits."""
        self.text(4, y - 38, name, "name", "start")
        self.text(4, y + 28, note, "note", "start")
        self.box(22, y, 32, 32, "image")
        self.arrow((40, y), (90, y))
        for key, (width, height) in _STAGES.items():
            self.box(_COLUMNS[key], y, width, height, "stage")
        self.arrow((200, y), (220, y))
        self.box(_COLUMNS["embedding"], y, 12, 44, "embedding")
        if head:
            self.arrow((236, y), (258, y))
            for i, height in enumerate((12, 30, 8, 18)):
                self.box(_COLUMNS["logits"] - 12 + 8 * i, y + 16 - height / 2, 6, height, "logits")

    def svg(self, height: float) -> str:
        """Returns the picture."""
        head = (
            '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6"'
            ' markerHeight="6" orient="auto-start-reverse">'
            '<path class="head" d="M0 0 L8 4 L0 8 z"/></marker>'
        )
        return (
            f'<svg class="picture" viewBox="0 0 {WIDTH} {height:g}" role="img"'
            f' aria-label="{html.escape(self.title)}"><defs>{head}</defs>'
            f"{''.join(self.parts)}</svg>"
        )


def drawn(picture: Mapping[str, Any], title: str) -> str:
    """Returns the SVG of a picture.

    Args:
        picture: `kind`, the name of a drawing of this module, and its words.
        title: text for readers that do not see it.
    """
    words = dict(picture)
    return _KINDS[words.pop("kind")](Canvas(title), **words)


def _pair(
    canvas: Canvas,
    compares: Mapping[str, str],
    teachers: list[str] | None = None,
    labels: bool = True,
    joined: str = "",
    gap: int = -1,
) -> str:
    """Draws teachers above a student, and the losses between their outputs.

    The losses are in the gap of this number; in the other gaps the logits are `joined`.
    """
    names = [*(teachers or ["teacher"]), "student"]
    rows = [60 + 130 * i for i in range(len(names))]
    for name, y in zip(names, rows, strict=True):
        canvas.network(y, name, "trained" if name == "student" else "frozen")
    chosen = range(len(rows) - 1)[gap]
    for i, (top, low) in enumerate(itertools.pairwise(rows)):
        if i == chosen:
            _compare(canvas, compares, top, low)
        else:
            x = _COLUMNS["logits"]
            canvas.arrow((x, top + 22), (x, low - 22), "both")
            canvas.text(x + 10, (top + low) / 2, joined, "note", "start")
    if labels:
        canvas.arrow((304, rows[-1]), (330, rows[-1]), "loss")
        canvas.pill(382, rows[-1], "labels: CE")
    return canvas.svg(rows[-1] + 36)


def _compare(canvas: Canvas, compares: Mapping[str, str], top: float, low: float) -> None:
    """Draws the losses between the outputs of two networks."""
    for i, (key, words) in enumerate(compares.items()):
        keys = list(_STAGES) if key == "maps" else [key]
        middle = (top + low) / 2 + 26 * (i - (len(compares) - 1) / 2)
        for each in keys:
            height, x = _STAGES.get(each, (0, 44))[1], _COLUMNS[each]
            canvas.arrow((x, middle), (x, top + height / 2 + 3), "loss")
            canvas.arrow((x, middle), (x, low - height / 2 - 3), "loss")
        at, half = sum(_COLUMNS[each] for each in keys) / len(keys), 3.3 * len(words) + 12
        canvas.pill(min(max(at, half), WIDTH - half), middle, words)


def _one(canvas: Canvas, words: str = "labels: CE", name: str = "student") -> str:
    """Draws one network that learns from the labels."""
    canvas.network(60, name, "trained")
    canvas.arrow((304, 60), (330, 60), "loss")
    canvas.pill(340 + 3.3 * len(words), 60, words)
    return canvas.svg(100)


def _peers(canvas: Canvas, names: list[str], compares: str, notes: list[str] | None = None) -> str:
    """Draws networks that teach each other by their logits."""
    for i, name in enumerate(names):
        y = 60 + 110 * i
        canvas.network(y, name, (notes or ["trained"] * len(names))[i])
        canvas.arrow((304, y), (330, y), "loss")
        canvas.pill(382, y, "labels: CE")
        if i:
            x = _COLUMNS["logits"]
            canvas.arrow((x, y - 20), (x, y - 86), "loss both")
            canvas.pill(x, y - 54, compares)
    return canvas.svg(60 + 110 * len(names) - 65)


def _branches(canvas: Canvas, names: list[str], target: str, compares: str) -> str:
    """Draws a network whose last stage is repeated, and the target that the branches share."""
    middle = 20 + 22 * len(names)
    canvas.text(4, 10, "one network, shared first stages", "name", "start")
    canvas.box(22, middle, 32, 32, "image")
    canvas.arrow((40, middle), (60, middle))
    for x, (width, height) in zip((76, 114), list(_STAGES.values())[:2], strict=True):
        canvas.box(x, middle, width, height, "stage")
    for i, name in enumerate(names):
        y = 42 + 44 * i
        canvas.arrow((130, middle), (156, y))
        canvas.box(174, y, 30, 26, "stage")
        canvas.text(196, y, name, "", "start")
        canvas.arrow((276, y), (338, middle + (y - middle) / 3), "loss both")
    canvas.box(402, middle, 122, 40, "image")
    canvas.text(402, middle, target)
    canvas.pill(402, middle + 44, compares)
    return canvas.svg(44 * len(names) + 40)


def _modules(canvas: Canvas, streams: list[str], within: str, across: str = "") -> str:
    """Draws networks with guided modules: classifiers after their first stages."""
    for i, name in enumerate(streams):
        y = 60 + 150 * i
        canvas.network(y, name, "trained")
        for key in ("map1", "map2"):
            x = _COLUMNS[key]
            canvas.arrow((x, y + 28), (x, y + 48))
            canvas.box(x, y + 60, 26, 22, "logits")
        canvas.arrow((275, y + 22), (275, y + 60), "loss")
        canvas.arrow((275, y + 60), (166, y + 60), "loss")
        canvas.text(4, y + 60, "modules", "note", "start")
        canvas.pill(300, y + 60, within)
        canvas.arrow((304, y), (330, y), "loss")
        canvas.pill(382, y, "labels: CE")
    if across:
        canvas.arrow((440, 76), (440, 194), "loss")
        canvas.pill(min(430, WIDTH - 3.3 * len(across) - 8), 160, across)
    return canvas.svg(150 * len(streams) - 10)


def _chain(canvas: Canvas, steps: list[str], arrow: str = "KD") -> str:
    """Draws stages one after another, each the teacher of the next."""
    width = (WIDTH - 20 - 62 * (len(steps) - 1)) / len(steps)
    for i, name in enumerate(steps):
        x = 10 + width / 2 + i * (width + 62)
        canvas.box(x, 34, width, 44, "stage")
        canvas.text(x, 34, name)
        if i:
            canvas.arrow((x - width / 2 - 58, 34), (x - width / 2 - 4, 34), "loss")
            canvas.text(x - width / 2 - 31, 20, arrow, "note")
    return canvas.svg(70)


_KINDS: dict[str, Callable[..., str]] = {
    "pair": _pair,
    "one": _one,
    "peers": _peers,
    "branches": _branches,
    "modules": _modules,
    "chain": _chain,
}
