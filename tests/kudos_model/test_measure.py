from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from kudos_model import timings
from kudos_model.features import BASIS
from kudos_model.measure import FULL, TINY, Bench, OutOfMemory, Scope, Shot, main, plan, run
from kudos_model.measuring import architectures
from kudos_model.timings import Timing

BASELINES = list(architectures.TRUE)
SMALL = replace(BASIS, width=64, height=64, steps=1, source_processing="txt2img")
SMALL = replace(SMALL, denoising_strength=1.0, control_strength=1.0)
SEEDS = st.integers(0, 2**32)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "measured.csv"


def measure(out: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["--out", str(out), "--device", "cpu", "--tiny", *options])


def bench() -> Bench:
    return Bench(torch.device("cpu"), architectures.TINY)


def test_every_baseline_is_measured_with_the_same_jobs(out: Path) -> None:
    result = measure(out, "--jobs", "14", "--seed", "104")
    assert result.exit_code == 0, result.output
    measured = timings.read(out)
    by_baseline = {
        baseline: [
            (replace(timing.job, baseline=""), timing.batch)
            for timing in measured
            if timing.job.baseline == baseline
        ]
        for baseline in BASELINES
    }
    assert [len(jobs) for jobs in by_baseline.values()] == [2] * 7
    assert all(jobs == by_baseline[BASELINES[0]] for jobs in by_baseline.values())
    assert all(timing.device.startswith("CPU") and "tiny" in timing.device for timing in measured)


def test_goes_on_where_it_stopped(out: Path) -> None:
    options = ("--baseline", "flux_1", "--baseline", "stable_cascade")
    measure(out, *options, "--jobs", "2")
    before = out.read_text()
    result = measure(out, *options, "--jobs", "4")
    assert "2 new timings, 2 known before" in result.output
    assert out.read_text().startswith(before)
    assert len(timings.read(out)) == 4
    assert "0 new timings, 4 known before" in measure(out, *options, "--jobs", "4").output


def test_no_job_begins_when_the_time_is_over(out: Path) -> None:
    result = measure(out, "--minutes", "0", "--jobs", "9")
    assert result.exit_code == 0
    assert "9 jobs remain" in result.output
    assert not out.exists()


def test_timings_of_other_devices_stay(out: Path) -> None:
    other = Timing(replace(SMALL, baseline="flux_1"), 1.5, 2, "another GPU")
    timings.write(out, [other])
    measure(out, "--baseline", "z_image_turbo", "--jobs", "1")
    first, second = timings.read(out)
    assert first == other
    assert second.device != other.device


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_what_to_do(out: Path) -> None:
    result = CliRunner().invoke(main, ["--out", str(out)])
    assert result.exit_code == 1
    assert "finds no GPU" in result.output
    assert "--device cpu --tiny" in result.output


def test_other_files_are_not_touched(out: Path) -> None:
    timings.write(out, [Timing(SMALL, 1.0)])
    before = out.read_bytes()
    result = measure(out)
    assert result.exit_code == 1
    assert "Name another file" in result.output
    out.write_text("something else\n")
    assert measure(out).exit_code == 1
    out.write_bytes(before)
    assert measure(out / "x", "--jobs", "1").exit_code == 1


def test_what_does_not_fit_is_left_out(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    huge = replace(SMALL, width=2**26, height=2**26)
    run(bench(), [Shot(huge, 1), Shot(SMALL, 1)], out, "here", None)
    assert [timing.job for timing in timings.read(out)] == [SMALL]
    printed = capsys.readouterr()
    assert "left out: stable diffusion 1, 1 x 67108864x67108864" in printed.err
    assert "Left out for lack of memory: 1." in printed.out


def test_baselines_that_do_not_fit_are_left_out() -> None:
    tiny = architectures.TINY["flux_1"]
    large = replace(tiny, text=(replace(tiny.text[0], vocabulary=2**45), tiny.text[1]))
    two = Bench(torch.device("cpu"), {**architectures.TINY, "flux_1": large})
    for _ in range(2):
        with pytest.raises(OutOfMemory):
            two.seconds(Shot(replace(SMALL, baseline="flux_1"), 1))
    assert two.seconds(Shot(SMALL, 1)) > 0


@given(SEEDS, st.integers(7, 60))
def test_plans_cover_every_baseline_evenly(seed: int, jobs: int) -> None:
    shots = plan(BASELINES, jobs, seed, FULL)
    counts = [sum(shot.job.baseline == baseline for shot in shots) for baseline in BASELINES]
    assert sum(counts) == jobs
    assert max(counts) - min(counts) <= 1


@given(SEEDS, st.integers(1, 60), st.integers(1, 60))
def test_longer_plans_hold_shorter_ones(seed: int, jobs: int, more: int) -> None:
    shorter, longer = (plan(BASELINES, number, seed, FULL) for number in (jobs, jobs + more))
    assert set(shorter) <= set(longer)


def test_plans_are_random_but_seeded() -> None:
    first, again, other = (plan(BASELINES, 100, seed, FULL) for seed in (1, 1, 2))
    assert first == again
    assert set(first) & set(other) == set(plan(BASELINES, 14, 1, FULL))
    assert any(shot.job.hires_fix for shot in first)
    assert any(shot.job.source_image for shot in first)
    assert {shot.batch for shot in first} == {1, 2, 4}


@pytest.mark.parametrize("scope", [FULL, TINY])
def test_jobs_are_read_as_they_were_planned(out: Path, scope: Scope) -> None:
    shots = plan(BASELINES, 140, 3, scope)
    timings.write(out, [Timing(shot.job, 1.0, shot.batch, "here") for shot in shots])
    assert [Shot(timing.job, timing.batch) for timing in timings.read(out)] == shots
