"""The pages' plots: SVG in the page's own colours and font, so that they follow its light and dark schemes."""

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

# Drawn with the colour on the left, shown with the page's on the right.
TEXT, LINE, SERIES, SECOND, OTHERS = "#010203", "#040506", "#070809", "#0a0b0c", "#0d0e0f"
THEME = {
    TEXT: "var(--muted)",
    LINE: "var(--line)",
    SERIES: "var(--accent)",
    SECOND: "var(--miss)",
    OTHERS: "var(--edge)",
}
# At this width in points the labels stay legible on a phone, where the page is about as wide in pixels.
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


def learning_curves(curve: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The training loss and the test accuracy by step: for each that was measured, its title, SVG and description."""
    plots = []
    for key, (title, spell) in MEASURED.items():
        if points := points_of(curve, key):
            first, last = points[0], points[-1]
            description = f"{title} from {spell(first[1])} at step {first[0]:,} to {spell(last[1])} at step {last[0]:,}"
            svg = _line(key, _thinned(points), spell)
            plots.append({"title": title, "svg": svg, "description": description})
    return plots


def _nats(value: float) -> str:
    return f"{value:.3g}"


def _percent(value: float) -> str:
    return f"{100 * value:.4g}%"


# What is measured in training, as a curve's moments have it: what it is called, and how its values are written.
MEASURED: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "loss": ("Training loss", _nats),
    "accuracy": ("Test accuracy", _percent),
}


def points_of(curve: Sequence[Mapping[str, Any]], key: str) -> list[tuple[int, float]]:
    """The steps at which `loss` or `accuracy` was measured, each with the value."""
    return [(moment["step"], moment[key]) for moment in curve if moment[key] is not None]


def _thinned(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """At most about MOST_POINTS of them, evenly, and always the last."""
    stride = -(-len(points) // MOST_POINTS)
    return points[::-1][::stride][::-1]


def over_time(runs: Sequence[tuple[datetime, float, tuple[float, float], str]], latest: int | None) -> str:
    """Accuracies with their 95% intervals by the time at which runs began; the latest's interval is a band.

    Args:
        runs: of each when it began, its accuracy, the interval, and its kind: `rejected`, `other` (tested on other
            data than the latest) or anything else.
        latest: the place of the latest among them.
    """

    def draw(axes: Axes) -> None:
        if latest is not None:
            axes.axhspan(*runs[latest][2], color=SERIES, alpha=0.14, linewidth=0)
        for place, (began, accuracy, (low, high), kind) in enumerate(runs):
            colour = SERIES if place == latest else SECOND if kind == "rejected" else OTHERS
            when: Any = began
            axes.plot([when, when], [low, high], color=colour, linewidth=1.4, solid_capstyle="butt")
            marker = "X" if kind == "rejected" else "o"
            face = "none" if kind == "other" else colour
            size = 8 if place == latest else 7 if kind == "rejected" else 5.5
            axes.plot([when], [accuracy], marker, color=colour, markerfacecolor=face, markersize=size)
        axes.margins(x=0.04)
        locator = AutoDateLocator(minticks=2, maxticks=7)  # type: ignore[no-untyped-call]
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
        axes.set_xlabel("began (UTC)")

    return _drawn("time", draw, _percent, WIDE)


def together(name: str, courses: Sequence[tuple[str, Sequence[tuple[int, float]]]]) -> str:
    """The learning curves of several runs, by step.

    Args:
        name: `loss` or `accuracy`.
        courses: of each run its part, `latest`, `newest` or another, and its steps with the values; the last on top.
    """
    colours = {"latest": SERIES, "newest": SECOND}

    def draw(axes: Axes) -> None:
        for part, points in courses:
            steps, values = zip(*_thinned(list(points)), strict=True)
            width = 1.8 if part in colours else 1
            axes.plot(steps, values, color=colours.get(part, OTHERS), linewidth=width, solid_joinstyle="round")
        _by_step(axes)

    return _drawn(f"all-{name}", draw, MEASURED[name][1])


def _line(name: str, points: list[tuple[int, float]], spell: Callable[[float], str]) -> str:
    """One line over steps, its last point marked, as an SVG element."""

    def draw(axes: Axes) -> None:
        steps, values = zip(*points, strict=True)
        axes.plot(steps, values, color=SERIES, linewidth=1.8, solid_capstyle="round", solid_joinstyle="round")
        axes.plot(steps[-1:], values[-1:], "o", color=SERIES, markersize=5)
        _by_step(axes)

    return _drawn(name, draw, spell)


def _by_step(axes: Axes) -> None:
    """Steps along the axis."""
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _drawn(
    name: str, draw: Callable[[Axes], None], spell: Callable[[float], str], size: tuple[float, float] = SIZE
) -> str:
    """What draw() draws, as an SVG element; spell writes the values."""
    with rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        axes.set_axisbelow(True)
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
