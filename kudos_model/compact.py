"""`python -m kudos_model.compact SOURCE.csv.gz`: makes `data/timings.csv.xz`, which training reads.

The source are 300,000 payloads with their seconds on the public horde's reference GPU, supplied to this
project as `kudos-timings.csv.gz`. Payloads that occur several times have the same seconds each time, to the
millisecond: the times are smoothed, not single runs. Sorted, they take half the space.
"""

from pathlib import Path

import click

from kudos_model import timings
from kudos_model.timings import DATA, BadTimings, Timing


def order(timing: Timing) -> tuple[object, ...]:
    """Puts timings that are alike next to each other."""
    job = timing.job
    return (
        job.control_type or "",
        job.post_processing,
        timing.job.source_processing,
        job.source_image,
        job.hires_fix,
        job.sampler,
        job.karras,
        job.width,
        job.height,
        job.steps,
    )


@click.command()
@click.argument("source", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), default=DATA, help="Where they go.")
def main(source: Path, out: Path) -> None:
    """Sort and compress timings."""
    try:
        measured = sorted(timings.read(source), key=order)
    except BadTimings as error:
        raise click.ClickException(str(error)) from error
    out.parent.mkdir(parents=True, exist_ok=True)
    timings.write(out, measured)
    click.echo(f"Wrote {len(measured):,} timings to {out} ({out.stat().st_size:,} bytes).")


if __name__ == "__main__":
    main()
