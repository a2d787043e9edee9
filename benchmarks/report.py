"""Numbers as people read them."""

from collections.abc import Sequence


def percentile(values: Sequence[float], percent: int) -> float:
    """The least of `values` that at least `percent` of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def milliseconds(seconds: Sequence[float]) -> str:
    """Median and 95th percentile of some durations; a dash for none."""
    if not seconds:
        return "-"
    return f"{1000 * percentile(seconds, 50):.1f} / {1000 * percentile(seconds, 95):.1f}"


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows of equal length, the first one as heads; all columns but the first are right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for number, (label, *cells) in enumerate(rows):
        aligned = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        print("  ".join([label.ljust(widths[0]), *aligned]).rstrip())
        if number == 0:
            print("  ".join("-" * width for width in widths))
