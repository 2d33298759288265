"""The plots of the pages: SVG in the page's colours and font, which follow its light and dark schemes."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

from matplotlib import rc_context
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from matplotlib.axes import Axes

# Each placeholder colour on the left is replaced by the page's colour on the right.
TEXT, LINE, SERIES, SECOND, OTHERS = "#010203", "#040506", "#070809", "#0a0b0c", "#0d0e0f"
THEME = {
    TEXT: "var(--muted)",
    LINE: "var(--line)",
    SERIES: "var(--accent)",
    SECOND: "var(--miss)",
    OTHERS: "var(--edge)",
}
# In inches. At this width the labels stay legible on a phone.
SIZE = (4.4, 2.7)
WIDE = (8.8, 3.4)
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


def plot_curve(curve: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The plots of a learning curve: title, SVG and description for each quantity that was measured."""
    plots = []
    for key, (title, write) in QUANTITIES.items():
        if points := curve_points(curve, key):
            first, last = points[0], points[-1]
            description = f"{title} from {write(first[1])} at step {first[0]:,} to {write(last[1])} at step {last[0]:,}"
            svg = _line(key, _thinned(points), write)
            plots.append({"title": title, "svg": svg, "description": description})
    return plots


def _nats(value: float) -> str:
    return f"{value:.3g}"


def _percent(value: float) -> str:
    return f"{100 * value:.4g}%"


# The quantities of a learning curve: title, and how values are written.
QUANTITIES: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "loss": ("Training loss", _nats),
    "accuracy": ("Test accuracy", _percent),
}


def curve_points(curve: Sequence[Mapping[str, Any]], key: str) -> list[tuple[int, float]]:
    """The steps at which a quantity was measured, with its values."""
    return [(moment["step"], moment[key]) for moment in curve if moment[key] is not None]


def _thinned(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """About MOST_POINTS of the points at most, evenly spaced, and always the last."""
    stride = -(-len(points) // MOST_POINTS)
    return points[::-1][::stride][::-1]


def accuracy_over_time(runs: Sequence[tuple[datetime, float, tuple[float, float], str]], latest: int | None) -> str:
    """Accuracies with their 95% intervals by start time; the interval of the latest is a band.

    Args:
        runs: for each its start, accuracy, interval and kind: `rejected`, `other` (tested on other data) or any word.
        latest: the index of the latest among them.
    """

    def draw(axes: Axes) -> None:
        if latest is not None:
            axes.axhspan(*runs[latest][2], color=SERIES, alpha=0.14, linewidth=0)
        for index, (started, accuracy, (low, high), kind) in enumerate(runs):
            colour = SERIES if index == latest else SECOND if kind == "rejected" else OTHERS
            when: Any = started
            axes.plot([when, when], [low, high], color=colour, linewidth=1.4, solid_capstyle="butt")
            marker = "X" if kind == "rejected" else "o"
            face = "none" if kind == "other" else colour
            size = 8 if index == latest else 7 if kind == "rejected" else 5.5
            axes.plot([when], [accuracy], marker, color=colour, markerfacecolor=face, markersize=size)
        axes.margins(x=0.04)
        locator = AutoDateLocator(minticks=2, maxticks=7)  # type: ignore[no-untyped-call]
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
        axes.set_xlabel("started (UTC)")

    return _draw("time", draw, _percent, WIDE)


def curves_together(name: str, curves: Sequence[tuple[str, Sequence[tuple[int, float]]]]) -> str:
    """The learning curves of several runs, by step.

    Args:
        name: `loss` or `accuracy`.
        curves: for each run its role, `latest`, `newest` or another, and its points; the last is on top.
    """
    colours = {"latest": SERIES, "newest": SECOND}

    def draw(axes: Axes) -> None:
        for role, points in curves:
            steps, values = zip(*_thinned(list(points)), strict=True)
            width, marker = 1.8 if role in colours else 1, "o" if len(points) == 1 else ""  # a point alone has no line
            axes.plot(steps, values, marker, color=colours.get(role, OTHERS), linewidth=width)
        _by_step(axes)

    return _draw(f"all-{name}", draw, QUANTITIES[name][1])


def _line(name: str, points: list[tuple[int, float]], write: Callable[[float], str]) -> str:
    """One line over steps, its last point marked, as an SVG element."""

    def draw(axes: Axes) -> None:
        steps, values = zip(*points, strict=True)
        axes.plot(steps, values, color=SERIES, linewidth=1.8, solid_capstyle="round", solid_joinstyle="round")
        axes.plot(steps[-1:], values[-1:], "o", color=SERIES, markersize=5)
        _by_step(axes)

    return _draw(name, draw, write)


def _by_step(axes: Axes) -> None:
    """Label the axis of steps."""
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _draw(
    name: str, draw: Callable[[Axes], None], write: Callable[[float], str], size: tuple[float, float] = SIZE
) -> str:
    """The axes that draw() fills, as an SVG element; write() formats the values."""
    with rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        axes.set_axisbelow(True)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: write(value)))
        buffer = io.StringIO()
        # Without the date, the same input gives the same file.
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return _themed(buffer.getvalue(), name)


def _themed(document: str, name: str) -> str:
    """The svg element of a document, in the page's colours and font, with ids that no other plot has."""
    svg = document[document.index("<svg") :]
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)  # it would apply to the whole page
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(xlink:href="|url\()#', rf"\1#{name}-", svg)
    svg = re.sub(r"font-family: [^;]*; ", "", svg)
    for placeholder, colour in THEME.items():
        svg = svg.replace(placeholder, colour)
    return svg.strip()
