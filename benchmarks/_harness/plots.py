"""Line plots as SVG, written by hand: axes, ticks, lines, a legend, and nothing that a browser must fetch.

A plot is some lines over numbers, on linear or logarithmic axes; that is all the questions here need. Colours are those
of Okabe and Ito, which colour-blind readers tell apart, and each line's points have a title with their numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from benchmarks._harness.measure import Plot

WIDTH, HEIGHT = 800, 440
LEFT, RIGHT, TOP, BOTTOM = 74, 220, 44, 56
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
DASHES = ("none", "8 4", "3 3", "10 3 2 3")
"""By place, so that a line shows through another that lies on it."""
Scale = Callable[[float], float]


def svg(plot: Plot, note: str = "") -> str:
    """The plot as one SVG document; `note` is small print below it: machine and commit."""
    points = [point for line in plot.lines.values() for point in line]
    xs, x_ticks = _axis([x for x, _ in points], plot.log_x, LEFT, WIDTH - RIGHT)
    ys, y_ticks = _axis([y for _, y in points], plot.log_y, HEIGHT - BOTTOM, TOP)
    bottom, end = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(LEFT, 24, plot.title, 'font-size="15" font-weight="bold"'),
    ]
    for tick in x_ticks:
        parts.append(f'<path d="M{xs(tick):.1f} {TOP}V{bottom}" stroke="#dddddd"/>')
        parts.append(_text(xs(tick), bottom + 16, number(tick), 'text-anchor="middle"'))
    for tick in y_ticks:
        parts.append(f'<path d="M{LEFT} {ys(tick):.1f}H{end}" stroke="#dddddd"/>')
        parts.append(_text(LEFT - 6, ys(tick) + 4, number(tick), 'text-anchor="end"'))
    parts.append(f'<path d="M{LEFT} {TOP}V{bottom}H{end}" fill="none" stroke="black"/>')
    parts.append(_text((LEFT + end) / 2, bottom + 34, plot.x, 'text-anchor="middle"'))
    middle = (TOP + bottom) / 2
    parts.append(_text(18, middle, plot.y, f'text-anchor="middle" transform="rotate(-90 18 {middle})"'))
    parts.append(_text(LEFT, HEIGHT - 6, note, 'font-size="9" fill="#666666"'))
    for place, (name, line) in enumerate(plot.lines.items()):
        colour, y = COLOURS[place % len(COLOURS)], TOP + 10 + 20 * place
        path = " ".join(f"{xs(x):.1f},{ys(y):.1f}" for x, y in line)
        stroke = f'fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{DASHES[place % len(DASHES)]}"'
        parts.append(f'<polyline points="{path}" {stroke}/>')
        if len(line) <= 20:
            parts += [_point(xs(x), ys(y), colour, f"{name}: {number(x)}, {number(y)}") for x, y in line]
        parts.append(f'<path d="M{end + 12} {y}h26" {stroke}/>')
        parts.append(_text(end + 44, y + 4, name))
    return "\n".join([*parts, "</svg>\n"])


def _text(x: float, y: float, text: str, style: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>'


def _point(x: float, y: float, colour: str, title: str) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"><title>{escape(title)}</title></circle>'


def _axis(values: Sequence[float], log: bool, start: float, end: float) -> tuple[Scale, list[float]]:
    """Where on the page a value is, and the ticks: powers of ten, or some five round numbers from 0 on."""
    if log:
        low, high = (math.log10(limit(value for value in values if value > 0)) for limit in (min, max))
        low, high = math.floor(low), max(math.ceil(high), math.floor(low) + 1)
        ticks = [10.0**power for power in range(low, high + 1)]
        return lambda value: start + (math.log10(max(value, ticks[0])) - low) / (high - low) * (end - start), ticks
    step = _round_step((max(values) - min(min(values), 0)) or 1)
    first, last = math.floor(min(min(values), 0) / step), max(math.ceil(max(values) / step), 1)
    ticks = [step * i for i in range(first, last + 1)]
    return lambda value: start + (value - ticks[0]) / (ticks[-1] - ticks[0]) * (end - start), ticks


def _round_step(spread: float) -> float:
    """A step of 1, 2 or 5 times a power of ten that divides `spread` into four to nine."""
    power: float = 10.0 ** math.floor(math.log10(spread / 4))
    return max(factor * power for factor in (1, 2, 5) if factor * power <= spread / 4)


def number(value: float) -> str:
    """A number as an axis shows it: 20k, 1.5M, 0.25."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"
