"""`python -m benchmarks prices`: how fast jobs are priced, and how well."""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import click
import onnxruntime

from benchmarks.report import print_table
from horde.kudos.pricing import Prices
from kudos_model.estimator import NETWORK, Estimator
from kudos_model.evaluate import TARGETS
from kudos_model.features import BASIS, JobFeatures
from kudos_model.monotonicity import random_job
from kudos_model.timings import DATA, read

BATCH = 256
ROUNDS = 7
"""Each is measured so often; the fastest counts, as others are at work on the same machine."""
MOST_LOADING, MOST_BYTES = 0.3, 1_000_000
MOST_ONE, LEAST_PER_SECOND = 60e-6, 50_000


@click.command()
@click.option("--jobs", type=click.IntRange(min=BATCH), default=40 * BATCH, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
def prices(jobs: int, seed: int) -> None:
    """Time the pricing network as the server runs it: one thread, in this process."""
    print(f"onnxruntime {onnxruntime.__version__}; {NETWORK.name}; the best of {ROUNDS} rounds")
    estimator = Estimator()
    chance = random.Random(seed)
    usual = [timing.job for timing in chance.sample(read(DATA), jobs)]
    rows = [
        ("what", "measured", "target"),
        ("size of the file", f"{NETWORK.stat().st_size:,} bytes", f"under {MOST_BYTES:,}"),
        ("loading it", f"{1000 * _fastest(Estimator):.0f} ms", f"under {1000 * MOST_LOADING:.0f}"),
        ("one job without extras", _one(estimator, [BASIS]), f"at most {1e6 * MOST_ONE:.0f}"),
        ("one job, as asked for", _one(estimator, usual[:500]), ""),
        ("one job that is remembered", _one(Prices(estimator), [BASIS]), ""),
        (
            f"{BATCH} at once, as people ask for them",
            _batches(estimator, usual),
            f"at least {LEAST_PER_SECOND:,}",
        ),
        (f"{BATCH} at once without extras", _batches(estimator, [_plain(job) for job in usual]), ""),
        (f"{BATCH} at once, anything the API takes", _batches(estimator, _any(chance, jobs)), ""),
    ]
    for group, targets in TARGETS.items():
        found = estimator.facts["errors_percent"][group]
        rows += [
            (f"{name} error, {group}", f"{found[name]:.2f} %", f"at most {most:g}")
            for name, most in targets.items()
        ]
    print_table(rows)


def _plain(job: JobFeatures) -> JobFeatures:
    return replace(job, hires_fix=False, control_type=None, post_processing=())


def _any(chance: random.Random, jobs: int) -> list[JobFeatures]:
    return [random_job(chance) for _ in range(jobs)]


def _fastest(work: Callable[[], object]) -> float:
    """Seconds that some work takes."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def _one(estimator: Estimator | Prices, jobs: Sequence[JobFeatures]) -> str:
    ask = estimator.of if isinstance(estimator, Prices) else estimator.seconds
    single = [[job] for job in jobs] * max(1, 1000 // len(jobs))
    seconds = _fastest(lambda: [ask(job) for job in single]) / len(single)
    return f"{1e6 * seconds:.1f} µs"


def _batches(estimator: Estimator, jobs: Sequence[JobFeatures]) -> str:
    batches = [jobs[start : start + BATCH] for start in range(0, len(jobs), BATCH)]
    seconds = _fastest(lambda: [estimator.seconds(batch) for batch in batches])
    return f"{len(jobs) / seconds:,.0f} /s"
