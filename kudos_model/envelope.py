"""Why something extra never makes a price smaller.

Timings are not monotone: a second pass or a face fixer makes some jobs faster. A price must not be, or adding
it would be a discount. So a job is estimated with every subset of its extras, and takes as long as the
slowest of them: the smallest monotone function that is nowhere below the network, its upper envelope. If A
is a subset of B then every subset of A is one of B, and a maximum over more is never less. More pixels or
steps are the network's own part: each of the estimates can only grow with them, so does their maximum.
"""

from collections.abc import Sequence
from functools import cache, lru_cache
from itertools import product

import numpy as np
import numpy.typing as npt

from kudos_model.features import COLUMNS, SWITCHES, JobFeatures, Matrix, encode

Owners = npt.NDArray[np.intp]
CACHED_SWITCHES = 4096
_FIRST_COLUMNS = [COLUMNS.index(switch[0]) for switch in SWITCHES]
_BITS = 1 << np.arange(len(SWITCHES))


def with_fewer_extras(jobs: Sequence[JobFeatures]) -> tuple[Matrix, Owners]:
    """Rows of some jobs with every subset of their extras, and for each row the number of its job.

    Those of one job stand together, in the order of the jobs.
    """
    switched_on = [_switched_on(job.hires_fix, job.control_type, job.post_processing) for job in jobs]
    return expand(encode(jobs), switched_on)


def expand(rows: Matrix, switched_on: Sequence[int]) -> tuple[Matrix, Owners]:
    """The same of rows, of each of which is told what is on: bit n stands for `SWITCHES[n]`."""
    if not any(switched_on):
        return rows, np.arange(len(rows))
    kept = [_kept(bits) for bits in switched_on]
    owners = np.repeat(np.arange(len(rows)), [len(subsets) for subsets in kept])
    return rows[owners] * np.concatenate(kept), owners


def switches(rows: Matrix) -> list[int]:
    """What is on in each of some rows, as `expand` takes it."""
    on: npt.NDArray[np.int64] = (rows[:, _FIRST_COLUMNS] != 0) @ _BITS
    bits: list[int] = on.tolist()
    return bits


@lru_cache(maxsize=CACHED_SWITCHES)
def _switched_on(hires_fix: bool, control: str | None, post_processing: tuple[str, ...]) -> int:
    """The switches of a job that are on, as one bit each."""
    on = {*post_processing, "hires_fix" if hires_fix else "", "control" if control else ""}
    return sum(1 << number for number, (name, *_) in enumerate(SWITCHES) if name in on)


@cache
def _kept(switched_on: int) -> Matrix:
    """A row for each subset of some switches (one bit each): 0 in the columns of those that are off."""
    switches = [switch for number, switch in enumerate(SWITCHES) if switched_on >> number & 1]
    subsets = product((True, False), repeat=len(switches))
    off = [
        {name for switch, on in zip(switches, subset, strict=True) if not on for name in switch}
        for subset in subsets
    ]
    return np.array([[name not in names for name in COLUMNS] for names in off], np.float32)


def slowest(seconds: npt.NDArray[np.float32], owners: Owners) -> npt.NDArray[np.float32]:
    """The largest of the `seconds` of each owner, in the order of the owners."""
    starts = np.flatnonzero(np.diff(owners, prepend=-1))
    return np.maximum.reduceat(seconds, starts)
