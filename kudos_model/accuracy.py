"""How far estimates are from measured times."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kudos_model.features import JobFeatures

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Errors:
    """Absolute errors of the estimates of some jobs, in percent of what was measured."""

    jobs: int
    mean: float
    p50: float
    p95: float
    p99: float
    worst: float
    bias: float
    """Mean of the errors with their signs: above 0 if estimates are too long."""

    @classmethod
    def of(cls, errors: Floats) -> "Errors":
        """Of relative errors, which must not be empty."""
        sizes = np.abs(errors) * 100
        p50, p95, p99 = np.percentile(sizes, [50, 95, 99])
        values = (sizes.mean(), p50, p95, p99, sizes.max(), errors.mean() * 100)
        return cls(len(errors), *(round(float(value), 3) for value in values))

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


ALL, PLAIN = "all", "without CodeFormers and second pass"
SIZE_BANDS = ((0.0, 0.25), (0.25, 0.5), (0.5, 1.0), (1.0, 2.0), (2.0, 4.0), (4.0, float("inf")))
"""Above the first and up to the second, in 1024x1024 pixels."""


def relative_errors(estimated: Sequence[float] | Floats, measured: Sequence[float] | Floats) -> Floats:
    """By how much of what was measured each estimate is too long."""
    return np.asarray(estimated, np.float64) / np.asarray(measured, np.float64) - 1


def by_group(jobs: Sequence[JobFeatures], errors: Floats) -> dict[str, dict[str, Errors]]:
    """Errors of all jobs, and by what they are; groups without jobs are left out."""
    return {
        "rows": _grouped(jobs, errors, lambda job: [ALL, *([PLAIN] if _plain(job) else [])]),
        "sampler": _grouped(jobs, errors, lambda job: [job.sampler]),
        "size": _grouped(jobs, errors, lambda job: [_size_band(job)]),
        "control": _grouped(jobs, errors, lambda job: [job.control_type or "none"]),
        "post-processing": _grouped(jobs, errors, lambda job: job.post_processing or ["none"]),
        "second pass": _grouped(jobs, errors, lambda job: ["on" if job.hires_fix else "off"]),
    }


def _grouped(
    jobs: Sequence[JobFeatures], errors: Floats, groups_of: Callable[[JobFeatures], Sequence[str]]
) -> dict[str, Errors]:
    members: dict[str, list[int]] = {}
    for number, job in enumerate(jobs):
        for group in groups_of(job):
            members.setdefault(group, []).append(number)
    return {group: Errors.of(errors[numbers]) for group, numbers in sorted(members.items())}


def _plain(job: JobFeatures) -> bool:
    return not job.hires_fix and "CodeFormers" not in job.post_processing


def _size_band(job: JobFeatures) -> str:
    size = job.width * job.height / 1024**2
    low, high = next((low, high) for low, high in SIZE_BANDS if size <= high)
    return f"{low:g} to {high:g}" if high != float("inf") else f"above {low:g}"
