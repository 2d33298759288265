"""The report's plots: SVG in the page's own colours and font, so that they follow its light and dark schemes."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

# Drawn with the colour on the left, shown with the page's on the right.
TEXT, LINE, SERIES = "#010203", "#040506", "#070809"
THEME = {TEXT: "var(--muted)", LINE: "var(--line)", SERIES: "var(--accent)"}
# At this width in points the labels stay legible on a phone, where the page is about as wide in pixels.
SIZE = (4.4, 2.7)
MOST_POINTS = 300

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: small, selectable, in the page's font
    "svg.hashsalt": "report",  # the same input gives the same bytes
    "font.size": 9.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "text.color": TEXT,
    "axes.edgecolor": LINE,
    "axes.labelcolor": TEXT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": LINE,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}


def learning_curves(curve: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The training loss and the test accuracy by step: for each that was measured, its title, SVG and description."""
    plots = []
    for key, title, spell in (("loss", "Training loss", _nats), ("accuracy", "Test accuracy", _percent)):
        points = [(moment["step"], moment[key]) for moment in curve if moment[key] is not None]
        if points:
            first, last = points[0], points[-1]
            description = f"{title} from {spell(first[1])} at step {first[0]:,} to {spell(last[1])} at step {last[0]:,}"
            svg = _line(key, _thinned(points), spell)
            plots.append({"title": title, "svg": svg, "description": description})
    return plots


def _nats(value: float) -> str:
    return f"{value:.3g}"


def _percent(value: float) -> str:
    return f"{100 * value:.4g}%"


def _thinned(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """At most about MOST_POINTS of them, evenly, and always the last."""
    stride = -(-len(points) // MOST_POINTS)
    return points[::-1][::stride][::-1]


def _line(name: str, points: list[tuple[int, float]], spell: Callable[[float], str]) -> str:
    """One line over steps, its last point marked, as an SVG element."""
    with rc_context(STYLE):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.add_subplot()
        steps, values = zip(*points, strict=True)
        axes.plot(steps, values, color=SERIES, linewidth=1.8, solid_capstyle="round", solid_joinstyle="round")
        axes.plot(steps[-1:], values[-1:], "o", color=SERIES, markersize=5)
        axes.set_axisbelow(True)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: spell(value)))
        buffer = io.StringIO()
        # The date would make each file another one.
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return _themed(buffer.getvalue(), name)


def _themed(document: str, name: str) -> str:
    """The svg element of a document, in the page's colours and font, with ids that are this plot's alone."""
    svg = document[document.index("<svg") :]
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)  # inline, it would rule the whole page
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(xlink:href="|url\()#', rf"\1#{name}-", svg)
    svg = re.sub(r"font-family: [^;]*; ", "", svg)
    for drawn, shown in THEME.items():
        svg = svg.replace(drawn, shown)
    return svg.strip()
