"""Pictures of how good estimates are. Needs matplotlib, which is in `requirements-train.txt`."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from kudos_model.accuracy import Floats
from kudos_model.features import JobFeatures

SIZE = (7.0, 5.0)
DOTS_PER_INCH = 110


def estimated_against_measured(estimated: Floats, measured: Floats, path: Path) -> None:
    """Write a picture in which every job is at its measured and its estimated seconds."""
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    cells = axes.hexbin(
        measured, estimated, xscale="log", yscale="log", bins="log", gridsize=90, mincnt=1, cmap="viridis"
    )
    ends = [measured.min(), measured.max()]
    axes.plot(ends, ends, color="black", linewidth=0.8, label="as measured")
    axes.set(xlabel="measured seconds", ylabel="estimated seconds", title="Estimated against measured time")
    axes.legend(loc="upper left")
    figure.colorbar(cells, label="jobs")
    _save(figure, path)


def error_by_size(jobs: Sequence[JobFeatures], errors: Floats, path: Path) -> None:
    """Write a picture of the absolute errors, in percent, of jobs of about the same number of pixels."""
    pixels = np.array([job.width * job.height for job in jobs]) / 1024**2
    edges = np.quantile(pixels, np.linspace(0, 1, 25))
    bands = np.unique(edges)
    number = np.clip(np.digitize(pixels, bands[1:-1]), 0, len(bands) - 2)
    sizes = [errors_of for band in range(len(bands) - 1) if len(errors_of := errors[number == band])]
    centres = [np.median(pixels[number == band]) for band in range(len(bands) - 1) if (number == band).any()]
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    for quantile, colour in ((50, "C0"), (95, "C1"), (99, "C3")):
        values = [np.percentile(np.abs(each) * 100, quantile) for each in sizes]
        axes.plot(centres, values, marker=".", color=colour, label=f"{quantile} % of jobs are better")
    axes.set(xscale="log", ylim=(0, None), xlabel="size in 1024x1024 pixels", ylabel="error in percent")
    axes.set_title("Error by size of the picture")
    axes.grid(alpha=0.3)
    axes.legend()
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DOTS_PER_INCH, metadata={"Software": None})
