from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kudos_model.envelope import expand, slowest, switches, with_fewer_extras
from kudos_model.features import BASIS, JobFeatures, encode, readings
from tests.kudos_model.jobs import JOBS, plain

EVERYTHING = replace(
    BASIS,
    hires_fix=True,
    control_type="hed",
    control_strength=0.5,
    post_processing=("GFPGAN", "CodeFormers"),
    baseline="stable_cascade",
)


def subsets_of(*jobs: JobFeatures) -> list[tuple[int, tuple[float, ...]]]:
    rows, owners = with_fewer_extras(jobs)
    return [(int(owner), tuple(row)) for owner, row in zip(owners, rows, strict=True)]


def test_a_job_without_extras_stands_for_itself() -> None:
    assert subsets_of(BASIS) == [(0, tuple(encode([BASIS])[0]))]


def test_every_subset_is_the_job_without_the_others() -> None:
    expected = {
        tuple(
            encode([replace(EVERYTHING, hires_fix=hires_fix, control_type=control, post_processing=names)])[0]
        )
        for hires_fix in (True, False)
        for control in ("hed", None)
        for names in ((), ("GFPGAN",), ("CodeFormers",), ("GFPGAN", "CodeFormers"))
    }
    found = subsets_of(EVERYTHING)
    assert len(found) == len(expected) == 16
    assert {row for _, row in found} == expected


def test_jobs_keep_their_order() -> None:
    owners = [owner for owner, _ in subsets_of(BASIS, EVERYTHING, BASIS, replace(BASIS, hires_fix=True))]
    assert owners == [0, *[1] * 16, 2, 3, 3]


def test_the_slowest_of_each_job_counts() -> None:
    seconds = np.array([3, 1, 4, 1, 5], np.float32)
    assert slowest(seconds, np.array([0, 1, 1, 2, 2])).tolist() == [3, 4, 5]


def test_untimed_post_processors_are_not_left_out() -> None:
    """They only ever add seconds, so leaving them out cannot take longer."""
    job = replace(plain(512, 30), post_processing=("RestoreFormer", "a new one"))
    assert len(subsets_of(job)) == 1


@settings(deadline=None)
@given(st.lists(JOBS.map(lambda job: readings(job)[0]), min_size=1, max_size=5))
def test_what_is_on_can_be_told_from_rows(jobs: list[JobFeatures]) -> None:
    rows, owners = with_fewer_extras(jobs)
    again, same_owners = expand(encode(jobs), switches(encode(jobs)))
    assert (again == rows).all()
    assert (same_owners == owners).all()
