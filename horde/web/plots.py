"""Plots as SVG that follows the page's colours; templates draw what is worked out here."""

from collections.abc import Sequence
from dataclasses import dataclass

SUFFIXES = ("", "K", "M", "G", "T", "P")


@dataclass(frozen=True, slots=True)
class Bar:
    """A rectangle in the units of its plot, and what it stands for."""

    x: float
    y: float
    width: float
    height: float
    label: str
    value: float


def columns(values: Sequence[tuple[str, float]], width: float, height: float) -> list[Bar]:
    """Upright bars side by side, the tallest `height` high."""
    most = max((value for _, value in values), default=0) or 1
    step = width / max(len(values), 1)
    return [
        Bar(
            round(place * step + 0.1 * step, 1),
            round(height - height * value / most, 1),
            round(0.8 * step, 1),
            round(height * value / most, 1),
            label,
            value,
        )
        for place, (label, value) in enumerate(values)
    ]


def rows(values: Sequence[tuple[str, float]], width: float) -> list[Bar]:
    """Bars for lines of their own, the longest `width` long."""
    most = max((value for _, value in values), default=0) or 1
    return [Bar(0, 0, round(width * value / most, 1), 1, label, value) for label, value in values]


def short(number: float) -> str:
    """A number as people read it: 950, 1.2 K, 3.4 M."""
    value, suffixes = float(number), iter(SUFFIXES)
    suffix = next(suffixes)
    while abs(value) >= 999.95 and suffix != SUFFIXES[-1]:
        value /= 1000
        suffix = next(suffixes)
    shown = f"{value:.1f}".removesuffix(".0")
    return f"{shown} {suffix}".rstrip()
