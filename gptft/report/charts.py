"""Charts as inline SVG: drawn in the page's own colours and fonts, with values where the pointer rests."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, HEIGHT = 420, 230
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 10, 36
POINTS = 240
"""At most so many points of a curve are drawn, evenly chosen; that many fit on a screen."""


@dataclass(frozen=True)
class Series:
    """A curve: points (x, y), and its look as CSS classes (`c0` to `c7` for the colour, `dashed`)."""

    name: str
    points: Sequence[tuple[float, float]]
    style: str


def number(value: float) -> str:
    """Write a number as short as an axis wants it: 0.25, 12k, 3.4M, 5e-05."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.4g}"


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) from `low` to `high`, about `count` of them."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


class _Axes:
    """A frame with both axes, to which marks are added in the data's own units."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float], x_label: str, y_label: str) -> None:
        self.x, self.y, self.title = _wide(x), _wide(y), y_label
        self.parts: list[Markup] = []
        middle = (LEFT + WIDTH - RIGHT) / 2
        self.add('<text x="{}" y="{}" text-anchor="middle">{}</text>', middle, HEIGHT - 4, x_label)
        for value in ticks(*self.y):
            height = self.at(0, value)[1]
            self.add('<path class="grid" d="M{} {:.1f}H{}"/>', LEFT, height, WIDTH - RIGHT)
            self.add('<text x="{}" y="{:.1f}" text-anchor="end">{}</text>', LEFT - 5, height + 4, number(value))
        for value in ticks(*self.x):
            left = self.at(value, 0)[0]
            self.add('<text x="{:.1f}" y="{}" text-anchor="middle">{}</text>', left, HEIGHT - 19, number(value))

    def at(self, x: float, y: float) -> tuple[float, float]:
        """The place of a point in the picture."""
        across, up = ((value - low) / (high - low) for value, (low, high) in ((x, self.x), (y, self.y)))
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    def add(self, markup: str, *values: object) -> None:
        """Add a mark; values that are text are escaped."""
        self.parts.append(Markup(markup).format(*values))

    def bar(self, start: float, end: float, height: float, hover: str) -> None:
        """Add a bar from `start` to `end`."""
        (left, up), (right, down) = self.at(start, height), self.at(end, 0)
        box = '<rect class="bar c0" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}</title></rect>'
        self.add(box, left + 0.5, up, max(right - left - 1, 0.5), max(down - up, 1 if height else 0), hover)

    def dot(self, style: str, place: tuple[float, float], size: float, hover: str) -> None:
        """Add a point."""
        dot = '<circle class="dot {}" cx="{:.1f}" cy="{:.1f}" r="{}"><title>{}</title></circle>'
        self.add(dot, style, *self.at(*place), size, hover)

    def svg(self) -> Markup:
        """The picture."""
        frame = '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>'
        return Markup(frame).format(WIDTH, HEIGHT, self.title, Markup("").join(self.parts))


def _wide(ends: tuple[float, float]) -> tuple[float, float]:
    low, high = ends
    return (low, high) if high > low else (low - abs(low or 1) / 2, high + abs(high or 1) / 2)


def line_chart(series: Iterable[Series], x_label: str, y_label: str) -> Markup:
    """Draw curves in one frame; points that are not finite are left out. Empty where there is no point at all."""
    curves = [(one, [point for point in one.points if all(map(math.isfinite, point))]) for one in series]
    everything = [point for _, points in curves for point in points]
    if not everything:
        return Markup("")
    (left, right), (low, high) = ((min(values), max(values)) for values in zip(*everything, strict=True))
    margin = (high - low) * 0.05
    bottom = low - margin if low < 0 else max(low - margin, 0)
    axes = _Axes((min(left, 0), right), (bottom, high + margin), x_label, y_label)
    for one, points in curves:
        chosen = points[:: -max(1, math.ceil(len(points) / POINTS))][::-1]
        places = " ".join("{:.1f},{:.1f}".format(*axes.at(*point)) for point in chosen)
        axes.add('<polyline class="line {}" points="{}"/>', one.style, places)
        for x, y in chosen:
            hover = f"{one.name}: {y:.5g} at {number(x)} {x_label}"
            axes.dot(one.style, (x, y), 2.5 if len(chosen) <= 40 else 1.2, hover)
    return axes.svg()


def histogram(step: int, counts: Sequence[int], limit: int | None, x_label: str, y_label: str) -> Markup:
    """Draw bars of width `step` from 1 on; `limit` is marked by a line where it lies inside."""
    axes = _Axes((0, step * len(counts)), (0, max(counts)), x_label, y_label)
    for index, count in enumerate(counts):
        start, end = index * step, (index + 1) * step
        axes.bar(start, end, count, f"{count:,} {y_label} of {start + 1:,} to {end:,} {x_label}")
    if limit and limit <= axes.x[1]:
        axes.add('<path class="limit" d="M{:.1f} {}V{}"/>', axes.at(limit, 0)[0], TOP, HEIGHT - BOTTOM)
    return axes.svg()


def reliability(confidences: Sequence[float], correct: Sequence[bool], bins: int = 10) -> Markup:
    """Draw the share of right answers against the confidence, by bins of equal width; the diagonal is what is said."""
    axes = _Axes((0, 1), (0, 1), "confidence", "share that is right")
    axes.add('<path class="diagonal" d="M{:.1f} {:.1f}L{:.1f} {:.1f}"/>', *axes.at(0, 0), *axes.at(1, 1))
    by_bin: dict[int, list[tuple[float, bool]]] = {}
    for row in zip(confidences, correct, strict=True):
        # As in the metric calibration_error, a bin has its upper end.
        by_bin.setdefault(max(0, math.ceil(row[0] * bins) - 1), []).append(row)
    for index, rows in by_bin.items():
        said, right = (sum(values) / len(rows) for values in zip(*rows, strict=True))
        hover = f"{len(rows):,} rows: mean confidence {said:.3f}, {right:.3f} of them right"
        axes.bar(index / bins, (index + 1) / bins, right, hover)
        axes.dot("c1", (said, right), 4, hover)
    return axes.svg()
