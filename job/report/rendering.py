"""The HTML templates in templates/, and how they format figures."""

from __future__ import annotations

import math
from datetime import datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def html_templates() -> Environment:
    """The environment of the templates, with the filters that format figures."""
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"percent": percent, "seconds": duration, "moment": moment, "number": "{:,}".format}
    return templates


def percent(share: float, digits: int = 2) -> str:
    """A share as a percentage; only a share of 1 reads 100%."""
    text = f"{100 * share:.{digits}f}"
    if share < 1 and float(text) == 100:
        text = f"{100 - 10**-digits:.{digits}f}"
    return f"{text}%"


def duration(seconds: float) -> str:
    """A duration in the largest unit that reads well."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def moment(started: str) -> str:
    """An ISO 8601 time in UTC as people write it; any other text unchanged."""
    try:
        return f"{datetime.fromisoformat(started):%-d %B %Y, %H:%M} UTC"
    except ValueError:
        return started


def interval_scale(low: float, high: float) -> tuple[float, float]:
    """The ends of the bar that shows an interval: the next multiples of 0.05."""
    return math.floor(20 * low) / 20, math.ceil(20 * high) / 20
