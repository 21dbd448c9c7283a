"""Draws plots as plain SVG for scripts/benchmarks.py. Has no dependencies.

There are two kinds: lines over logarithmic axes, and grouped bars.
"""

import math
from dataclasses import dataclass, field
from html import escape

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 960, 80, 300, 48, 56
# Colours that readers with colour blindness can distinguish: Paul Tol's muted and bright schemes.
COLOURS = [
    "#332288",
    "#88ccee",
    "#44aa99",
    "#117733",
    "#999933",
    "#ddcc77",
    "#cc6677",
    "#882255",
    "#aa4499",
    "#ee7733",
    "#bbbbbb",
    "#777777",
]
OURS, LIMIT = "#d62728", "#000000"


@dataclass
class Series:
    name: str
    points: list[tuple[float, float]]
    emphasis: str = field(default="")  # "ours", "limit" or nothing


@dataclass
class Axis:
    label: str
    ticks: list[tuple[float, str]]
    low: float
    high: float

    def at(self, value: float) -> float:
        return (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))


def lines(title: str, x: Axis, y: Axis, series: list[Series]) -> str:
    """Draws one line a series over logarithmic axes.

    The legend has the order of the last points, as the lines have.
    """
    height = 560
    plot = _Plot(title, height)
    right, bottom = WIDTH - RIGHT, height - BOTTOM

    def place(point: tuple[float, float]) -> tuple[float, float]:
        return LEFT + x.at(point[0]) * (right - LEFT), bottom - y.at(point[1]) * (bottom - TOP)

    for value, label in y.ticks:
        _, at = place((x.low, value))
        plot.line(LEFT, at, right, at, "#e4e4e4")
        plot.text(LEFT - 8, at + 4, label, "end")
    for value, label in x.ticks:
        at, _ = place((value, y.low))
        plot.line(at, TOP, at, bottom, "#e4e4e4")
        plot.text(at, bottom + 18, label, "middle")
    plot.axes(x.label, y.label)
    ranked = sorted(series, key=lambda one: one.points[-1][1], reverse=True)
    colour = _colours(series)
    # This cache last, so that its line is on top.
    for one in sorted(series, key=lambda one: one.emphasis == "ours"):
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in map(place, one.points))
        width = 3 if one.emphasis else 1.5
        dash = ' stroke-dasharray="6 4"' if one.emphasis == "limit" else ""
        plot.add(
            f'<polyline points="{path}" fill="none" stroke="{colour[one.name]}"'
            f' stroke-width="{width}"{dash}/>'
        )
        if len(one.points) <= 6:
            for px, py in map(place, one.points):
                plot.add(
                    f'<circle cx="{px:.1f}" cy="{py:.1f}" r="{width + 0.5}"'
                    f' fill="{colour[one.name]}"/>'
                )
    plot.legend([(one.name, colour[one.name], bool(one.emphasis)) for one in ranked])
    return plot.finish()


def bars(title: str, label: str, groups: list[str], series: list[Series]) -> str:
    """Draws horizontal bars from zero, one group a series. A point is (group's index, value)."""
    names = 330
    bar, gap = 15, 10
    height = TOP + sum(len(one.points) * bar + gap for one in series) + BOTTOM
    plot = _Plot(title, height)
    high = max(value for one in series for _, value in one.points)
    step = 10 ** math.floor(math.log10(high))
    step = next(step * part for part in (0.2, 0.5, 1, 2) if high / (step * part) <= 7)
    right, bottom = WIDTH - 80, height - BOTTOM
    for tick in range(math.floor(high / step) + 1):
        at = names + tick * step / high * (right - names)
        plot.line(at, TOP, at, bottom, "#e4e4e4")
        plot.text(at, bottom + 18, f"{tick * step:g}", "middle")
    shades = ["#555555", "#88aacc", "#ccbb77"]
    ours = [OURS, "#e87a7b", "#f3b9ba"]
    top = TOP
    for one in series:
        plot.text(
            names - 8, top + len(one.points) * bar / 2 + 4, one.name, "end", bold=bool(one.emphasis)
        )
        for row, (group, value) in enumerate(one.points):
            shade = (ours if one.emphasis == "ours" else shades)[int(group)]
            long = value / high * (right - names)
            plot.add(
                f'<rect x="{names}" y="{top + row * bar}" width="{long:.1f}"'
                f' height="{bar - 2}" fill="{shade}"/>'
            )
            plot.text(names + long + 5, top + row * bar + 11, f"{value:.1f}", "start", size=11)
        top += len(one.points) * bar + gap
    plot.text((names + right) / 2, height - 14, label, "middle")
    at = names
    for group, shade in zip(groups, shades):
        plot.add(f'<rect x="{at}" y="{TOP - 18}" width="11" height="11" fill="{shade}"/>')
        plot.text(at + 16, TOP - 8, group, "start")
        at += 30 + 7 * len(group)
    return plot.finish()


def decades(low: float, high: float, unit) -> tuple[list[tuple[float, str]], float, float]:
    """Returns ticks at powers of ten around these values, and the range that they span."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    last = max(last, first + 1)
    return (
        [(10.0**power, unit(10.0**power)) for power in range(first, last + 1)],
        10.0**first,
        10.0**last,
    )


def _colours(series: list[Series]) -> dict[str, str]:
    plain = iter(COLOURS * 3)
    return {
        one.name: {"ours": OURS, "limit": LIMIT}.get(one.emphasis) or next(plain) for one in series
    }


class _Plot:
    def __init__(self, title: str, height: float):
        self.height = height
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
            f'width="{WIDTH}" height="{height}" '
            f'font-family="Helvetica, Arial, sans-serif" font-size="12" role="img" '
            f'aria-label="{escape(title)}">',
            '<rect width="100%" height="100%" fill="#ffffff"/>',
        ]
        self.text(16, 22, title, "start", size=15, bold=True)

    def add(self, part: str):
        self.parts.append(part)

    def line(self, x1: float, y1: float, x2: float, y2: float, colour: str):
        self.add(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'
        )

    def text(self, x: float, y: float, text: str, anchor: str, size: int = 12, bold: bool = False):
        weight = ' font-weight="bold"' if bold else ""
        self.add(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"{weight}'
            f' fill="#222222">{escape(text)}</text>'
        )

    def axes(self, x: str, y: str):
        right, bottom = WIDTH - RIGHT, self.height - BOTTOM
        self.line(LEFT, bottom, right, bottom, "#222222")
        self.line(LEFT, TOP, LEFT, bottom, "#222222")
        self.text((LEFT + right) / 2, bottom + 40, x, "middle")
        middle = (TOP + bottom) / 2
        self.add(
            f'<text transform="translate(18 {middle:.0f}) rotate(-90)" text-anchor="middle"'
            f' fill="#222222">{escape(y)}</text>'
        )

    def legend(self, entries: list[tuple[str, str, bool]]):
        left = WIDTH - RIGHT + 16
        for row, (name, colour, bold) in enumerate(entries):
            at = TOP + 12 + row * 20
            self.add(
                f'<line x1="{left}" y1="{at}" x2="{left + 22}" y2="{at}" stroke="{colour}"'
                f' stroke-width="{3 if bold else 2}"/>'
            )
            self.text(left + 30, at + 4, name, "start", bold=bold)

    def finish(self) -> str:
        return "\n".join([*self.parts, "</svg>", ""])
