"""Measures how long images take on this machine's GPU: python -m kudos_model.measure --out FILE.csv

Networks have the architecture of each baseline and random weights, on which time does not depend. Every
job is done with all baselines, so that their times can be compared job by job. The file is complete after
each job; the same command goes on where it was stopped.
"""

import platform
import random
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import click
import torch

from kudos_model import timings
from kudos_model.features import BASIS, SAMPLERS, JobFeatures
from kudos_model.measuring import architectures
from kudos_model.measuring.architectures import Architecture
from kudos_model.measuring.pipelines import SIDE_UNIT, Pipeline, build
from kudos_model.timings import Timing

REPEATS, ENOUGH_SECONDS = 3, 20.0
"""A job runs so often, unless its runs took that long before; the median counts."""
JOBS_PER_VISIT = 5
"""So many jobs are done with one baseline's networks before the next ones are loaded."""
HIRES_FIX_SHARE, SOURCE_IMAGE_SHARE = 0.2, 0.25
"""Of the jobs."""


class OutOfMemory(Exception):
    """The device's memory is not enough for a job."""


@dataclass(frozen=True, slots=True)
class Shot:
    """A job to be timed, several images at once."""

    job: JobFeatures
    batch: int


@dataclass(frozen=True, slots=True)
class Scope:
    """What jobs are drawn from."""

    sides: tuple[int, int]
    """Smallest and largest, in pixels."""
    steps: tuple[int, int]
    batches: tuple[int, ...]
    """Each as likely as any other."""
    first: tuple[JobFeatures, ...] = ()
    """Jobs that are done before all others."""


def _as_read(job: JobFeatures) -> JobFeatures:
    """The job as a file of timings gives it back."""
    return replace(job, source_processing="txt2img", denoising_strength=1.0, control_strength=1.0)


FULL = Scope(
    sides=(512, 1536),
    steps=(4, 50),
    batches=(1, 1, 1, 2, 4),
    first=(_as_read(BASIS), _as_read(replace(BASIS, width=1024, height=1024, steps=30))),
)
TINY = Scope(sides=(64, 192), steps=(1, 3), batches=(1, 2))


def plan(baselines: Sequence[str], jobs: int, seed: int, scope: Scope) -> list[Shot]:
    """So many jobs, shared out evenly among the baselines; more jobs of the same seed only add to them."""
    draw = random.Random(seed)
    shots = [Shot(job, 1) for job in scope.first]
    while len(shots) * len(baselines) < jobs:
        shots.append(Shot(_random_job(draw, scope), draw.choice(scope.batches)))
    numbered = [
        (number // JOBS_PER_VISIT, place, replace(shot, job=replace(shot.job, baseline=baseline)))
        for number, shot in enumerate(shots)
        for place, baseline in enumerate(baselines)
    ]
    return [shot for *_, shot in sorted(numbered[:jobs], key=lambda entry: entry[:2])]


def _random_job(draw: random.Random, scope: Scope) -> JobFeatures:
    low, high = (side // SIDE_UNIT for side in scope.sides)
    job = JobFeatures(
        width=draw.randint(low, high) * SIDE_UNIT,
        height=draw.randint(low, high) * SIDE_UNIT,
        steps=draw.randint(*scope.steps),
        sampler=draw.choice(SAMPLERS),
        cfg_scale=round(draw.uniform(2, 12), 1),
    )
    kind, strength = draw.random(), round(draw.uniform(0.1, 1), 2)
    job = _as_read(replace(job, hires_fix=kind < HIRES_FIX_SHARE))
    if kind < 1 - SOURCE_IMAGE_SHARE:
        return job
    return replace(job, source_image=True, source_processing="img2img", denoising_strength=strength)


class Bench:
    """Times jobs on a device; it holds the networks of one baseline at a time."""

    def __init__(self, device: torch.device, networks: Mapping[str, Architecture]) -> None:
        self._device, self._networks = device, networks
        self._loaded: tuple[str, Pipeline] | None = None
        self._too_large: set[str] = set()

    def seconds(self, shot: Shot) -> float:
        """Median time of one image of the shot. Raises `OutOfMemory`; others may fit all the same."""
        self._free()
        with _memory_errors():
            pipeline = self._pipeline(shot.job.baseline)
            pipeline(replace(shot.job, steps=1, sampler=BASIS.sampler), shot.batch)  # chooses kernels
            runs: list[float] = []
            while len(runs) < REPEATS and sum(runs) < ENOUGH_SECONDS:
                runs.append(self._run(pipeline, shot))
        return statistics.median(runs) / shot.batch

    def _run(self, pipeline: Pipeline, shot: Shot) -> float:
        self._wait()
        start = time.perf_counter()
        pipeline(shot.job, shot.batch)
        self._wait()
        return time.perf_counter() - start

    def _pipeline(self, baseline: str) -> Pipeline:
        if self._loaded and self._loaded[0] == baseline:
            return self._loaded[1]
        if baseline in self._too_large:
            raise OutOfMemory
        self._loaded = None
        self._free()
        dtype = torch.float16 if self._device.type == "cuda" else torch.float32
        try:
            with _memory_errors():
                pipeline = build(self._networks[baseline], self._device, dtype)
        except OutOfMemory:
            self._too_large.add(baseline)
            raise
        self._loaded = baseline, pipeline
        return pipeline

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def _free(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


@contextmanager
def _memory_errors() -> Iterator[None]:
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemory from error
    except RuntimeError as error:  # other allocators only say so in words
        if "allocate memory" in str(error) or "ALLOC_FAILED" in str(error):
            raise OutOfMemory from error
        raise


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise click.ClickException(
            "PyTorch finds no GPU on this machine, so there is nothing to measure. Run this where there is"
            " one, with a PyTorch made for it. To only try the program out, add: --device cpu --tiny"
        )
    return torch.device(name)


def _label(device: torch.device, *, tiny: bool) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU {platform.machine()}"
    return f"{name} (tiny networks)" if tiny else name


def _known(path: Path) -> list[Timing]:
    """What an earlier run left in the file."""
    if not path.parent.is_dir():
        raise click.ClickException(f"There is no folder {path.parent}. Make it first, or name another file.")
    try:
        known = timings.read(path) if path.exists() else []
    except (timings.BadTimings, OSError) as error:
        raise click.ClickException(f"{error} Name another file, which may be a new one.") from error
    if not all(timing.device for timing in known):
        raise click.ClickException(
            f"The timings in {path} do not say which device they are of, so they are not of this program."
            " Name another file, which may be a new one."
        )
    return known


def _save(path: Path, measured: Sequence[Timing]) -> None:
    """Replace the file at once, so that it is whole whenever this program is stopped."""
    unfinished = path.with_name(f"unfinished-{path.name}")
    timings.write(unfinished, measured)
    unfinished.replace(path)


def run(bench: Bench, shots: Sequence[Shot], path: Path, label: str, minutes: float | None) -> None:
    """Time the shots that the file does not have yet, and tell how it went.

    No shot is begun once the minutes are over. Those that do not fit into memory are reported and left out.
    """
    measured, end = _known(path), time.monotonic() + 60 * minutes if minutes is not None else None
    done = {(Shot(timing.job, timing.batch), timing.device) for timing in measured}
    waiting = [shot for shot in dict.fromkeys(shots) if (shot, label) not in done]
    known, left_out = len(measured), 0
    with click.progressbar(waiting, label=label, item_show_func=_describe) as bar:
        for shot in bar:
            if end is not None and time.monotonic() >= end:
                break
            try:
                seconds = bench.seconds(shot)
            except OutOfMemory:
                left_out += 1
                click.echo(f"\nNot enough memory, left out: {_describe(shot)}", err=True)
                continue
            measured.append(Timing(shot.job, seconds, shot.batch, label))
            _save(path, measured)
    new = len(measured) - known
    click.echo(f"{path}: {new} new timings, {known} known before. Left out for lack of memory: {left_out}.")
    if later := len(waiting) - new - left_out:
        click.echo(f"The time is over; {later} jobs remain. The same command goes on with them.")


def _describe(shot: Shot | None) -> str:
    if shot is None:
        return ""
    job = shot.job
    return f"{job.baseline}, {shot.batch} x {job.width}x{job.height}, {job.steps} steps of {job.sampler}"


@click.command()
@click.option(
    "--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="CSV file to write."
)
@click.option(
    "--baseline",
    "baselines",
    multiple=True,
    type=click.Choice(list(architectures.TRUE)),
    help="Only this one; may be given repeatedly.",
)
@click.option(
    "--jobs", default=350, show_default=True, type=click.IntRange(1), help="Of all baselines together."
)
@click.option("--device", default="cuda", show_default=True, type=click.Choice(["cuda", "cpu"]))
@click.option("--tiny", is_flag=True, help="Tiny networks and pictures, to try the program out.")
@click.option("--seed", default=0, show_default=True, help="Another seed draws other jobs.")
@click.option("--minutes", type=click.FloatRange(0), help="Begin no job after so long.")
def main(
    out: Path,
    baselines: tuple[str, ...],
    jobs: int,
    device: str,
    tiny: bool,
    seed: int,
    minutes: float | None,
) -> None:
    """Measure how long images take on this machine's GPU.

    Stopped or not, the file has all that was measured, and the same command goes on from there.
    """
    torch_device = _device(device)
    chosen = list(dict.fromkeys(baselines)) or list(architectures.TRUE)
    shots = plan(chosen, jobs, seed, TINY if tiny else FULL)
    bench = Bench(torch_device, architectures.TINY if tiny else architectures.TRUE)
    run(bench, shots, out, _label(torch_device, tiny=tiny), minutes)


if __name__ == "__main__":
    main()
