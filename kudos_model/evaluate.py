"""`python -m kudos_model.evaluate --data FILE.csv`: how good the prices are that the server charges.

It judges `kudos.onnx` through the same code as the server, so what it prints is what people pay by.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np

from kudos_model import monotonicity, timings
from kudos_model.accuracy import ALL, PLAIN, by_group, relative_errors
from kudos_model.estimator import NETWORK, Estimator, WrongNetwork
from kudos_model.features import BASIS, JobFeatures
from kudos_model.timings import BadTimings, Timing

TARGETS = {
    ALL: {"mean": 2.0, "p50": 1.2, "p99": 14.0},
    PLAIN: {"mean": 1.5, "p99": 6.0},
}
"""Most percent of error over jobs that were not trained on."""
BASIS_PRICE, MOST_BASIS_ERROR = 11.0, 0.5
"""Kudos of the basis job, and the most percent that its estimate may be off."""
ESTIMATES_PLOT, SIZES_PLOT = "kudos-estimates.png", "kudos-errors.png"
AT_ONCE = 256


def estimate(estimator: Estimator, jobs: Sequence[JobFeatures]) -> list[float]:
    """Seconds of each job, asked for in batches as the server does."""
    parts = (jobs[start : start + AT_ONCE] for start in range(0, len(jobs), AT_ONCE))
    return [seconds for part in parts for seconds in estimator.seconds(part)]


def report(estimator: Estimator, measured: Sequence[Timing], *, pairs: int, seed: int = 0) -> dict[str, Any]:
    """Everything that is known about the quality of an estimator, as plain values."""
    jobs = [timing.job for timing in measured]
    errors = relative_errors(estimate(estimator, jobs), [timing.seconds for timing in measured])
    groups = by_group(jobs, errors)
    found = monotonicity.check(estimator, pairs, seed)
    return {
        "network": estimator.facts,
        "accuracy": {
            name: {group: each.as_dict() for group, each in groups_of.items()}
            for name, groups_of in groups.items()
        },
        "monotonicity": {**asdict(found), "violated": found.violated},
        "basis": _basis(estimator, measured),
        "missed": missed(groups["rows"], found.violated),
    }


def missed(rows: dict[str, Any], violated: int = 0) -> list[str]:
    """The targets that the errors of all rows miss, in words."""
    words = [
        f"{group}: {name} is {getattr(rows[group], name):.2f} %, not {most:g} %"
        for group, targets in TARGETS.items()
        for name, most in targets.items()
        if group in rows and getattr(rows[group], name) > most
    ]
    return words + ([f"{violated} pairs get cheaper when more is asked for"] if violated else [])


def _basis(estimator: Estimator, measured: Sequence[Timing]) -> dict[str, Any]:
    """How the basis job is estimated, and how it was measured if it was."""
    (estimated,) = estimator.seconds([BASIS])
    times = [timing.seconds for timing in measured if _is_basis(timing.job)]
    found: dict[str, Any] = {"estimated_seconds": round(estimated, 4), "price": BASIS_PRICE}
    if times:
        mean = sum(times) / len(times)
        found |= {"measured_seconds": mean, "error_percent": round((estimated / mean - 1) * 100, 3)}
    return found


def _is_basis(job: JobFeatures) -> bool:
    wanted = ("width", "height", "steps", "sampler", "cfg_scale", "karras", "hires_fix", "source_image")
    same = all(getattr(job, name) == getattr(BASIS, name) for name in wanted)
    return same and not job.control_type and not job.post_processing and job.baseline == BASIS.baseline


def _table(found: dict[str, Any]) -> str:
    names = ("jobs", "mean", "p50", "p95", "p99", "worst", "bias")
    lines = [f"{'errors in percent':<36}" + "".join(f"{name:>9}" for name in names)]
    for title, groups in found["accuracy"].items():
        lines += ["", title]
        lines += [
            f"  {group:<34}"
            + "".join(f"{each[name]:>9}" if name == "jobs" else f"{each[name]:>9.2f}" for name in names)
            for group, each in groups.items()
        ]
    pairs, wrong = found["monotonicity"]["pairs"], found["monotonicity"]["violations"]
    lines += ["", f"{'pairs of which the second asks for more':<45}{'pairs':>9}{'cheaper':>9}"]
    lines += [f"  {name:<43}{pairs[name]:>9}{wrong[name]:>9}" for name in pairs]
    basis = found["basis"]
    lines += ["", f"basis job: {basis['price']:.2f} kudos, {basis['estimated_seconds']:.3f} s"]
    if "measured_seconds" in basis:
        lines[-1] += f"; measured {basis['measured_seconds']:.3f} s, {basis['error_percent']:+.2f} %"
    return "\n".join([*lines, "", *(f"MISSED {target}" for target in found["missed"] or ["nothing"])])


def draw(estimator: Estimator, measured: Sequence[Timing], folder: Path) -> list[Path]:
    """Write the two pictures into `folder` and say where they are."""
    from kudos_model import plots  # needs matplotlib, which nothing else here does

    jobs, seconds = [timing.job for timing in measured], np.array([timing.seconds for timing in measured])
    estimated = np.array(estimate(estimator, jobs))
    plots.estimated_against_measured(estimated, seconds, folder / ESTIMATES_PLOT)
    plots.error_by_size(jobs, relative_errors(estimated, seconds), folder / SIZES_PLOT)
    return [folder / ESTIMATES_PLOT, folder / SIZES_PLOT]


@click.command()
@click.option(
    "--data",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="Timings as CSV.",
)
@click.option(
    "--network",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=NETWORK,
    help="Another.",
)
@click.option("--pairs", default=1_000_000, show_default=True, help="Random pairs that must be in order.")
@click.option("--seed", default=0, show_default=True, help="Of the pairs.")
@click.option("--plots", type=click.Path(file_okay=False, path_type=Path), help="Folder for two pictures.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def main(data: Path, network: Path, pairs: int, seed: int, plots: Path | None, as_json: bool) -> None:
    """Hold the network that the server runs against measured times."""
    try:
        estimator, measured = Estimator(network), timings.read(data)
    except (WrongNetwork, BadTimings) as error:
        raise click.ClickException(str(error)) from error
    if not measured:
        raise click.ClickException(f"{data} has no timings in it.")
    found = report(estimator, measured, pairs=pairs, seed=seed)
    click.echo(json.dumps(found, indent=1) if as_json else _table(found))
    for path in draw(estimator, measured, plots) if plots else []:
        click.echo(f"Wrote {path}", err=True)


if __name__ == "__main__":
    main()
