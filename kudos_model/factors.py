"""Measured factors of the families of models, from timings of all of them on one device."""

import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

from kudos_model.anchors import FACTORS, FAMILY_FACTORS, OTHER_BASELINE, SECOND_PASS, family_of
from kudos_model.features import BASIS, JobFeatures
from kudos_model.timings import Timing

STANDARD = "stable diffusion 1"
"""The family that the others are compared with."""
CASCADE = "stable_cascade"


def factors_from(timings: Iterable[Timing]) -> dict[str, float]:
    """`FACTORS`, with what was measured in place of what was given.

    Only jobs count that were also timed with Stable Diffusion 1, as many at once and on the same device; a
    family's factor is the median over them. Baselines that are not known stay as dear as the dearest.
    """
    times: dict[tuple[str, int, JobFeatures], dict[str, float]] = defaultdict(dict)
    for timing in timings:
        if timing.device:
            job = replace(timing.job, baseline=BASIS.baseline)
            times[timing.device, timing.batch, job][family_of(timing.job.baseline)] = timing.seconds
    ratios: dict[tuple[str, bool], list[float]] = defaultdict(list)
    for (_, _, job), by_family in times.items():
        if standard := by_family.pop(STANDARD, None):
            for family, seconds in by_family.items():
                ratios[family, job.hires_fix].append(seconds / standard)
    factors = dict(FACTORS)
    for family in FAMILY_FACTORS:
        if found := ratios[family, False]:
            factors[family] = round(statistics.median(found), 2)
    if found := ratios[CASCADE, True]:
        factors[SECOND_PASS] = max(0.0, round(statistics.median(found) - factors[CASCADE], 2))
    factors[OTHER_BASELINE] = max(factors[family] for family in FAMILY_FACTORS)
    return factors
