import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from kudos_model import evaluate, timings
from kudos_model.accuracy import ALL, PLAIN, Errors, by_group, relative_errors
from kudos_model.estimator import Estimator
from kudos_model.features import BASIS
from kudos_model.monotonicity import CHANGES, random_job
from kudos_model.timings import Timing

ESTIMATOR = Estimator()


def estimated_times(count: int = 60) -> list[Timing]:
    """What the network says itself, so that its errors are known: none."""
    chance = random.Random(5)
    jobs = [replace(random_job(chance), baseline=BASIS.baseline, workflow=None) for _ in range(count)]
    explicit = [
        replace(
            job,
            denoising_strength=job.denoising_strength or 1.0,
            control_strength=job.control_strength or 1.0,
        )
        for job in jobs
    ]
    return [Timing(job, seconds) for job, seconds in zip(explicit, ESTIMATOR.seconds(explicit), strict=True)]


def run(*options: object) -> Result:
    return CliRunner().invoke(evaluate.main, ["--pairs", "60", *map(str, options)])


def test_errors_are_percent_of_what_was_measured() -> None:
    errors = Errors.of(relative_errors([1.1, 0.8, 1.0, 2.0], [1.0, 1.0, 1.0, 1.0]))
    assert (errors.jobs, errors.mean, errors.p50, errors.worst, errors.bias) == (4, 32.5, 15, 100, 22.5)


def test_groups() -> None:
    jobs = [
        BASIS,
        replace(BASIS, post_processing=("GFPGAN", "CodeFormers"), width=2048, height=2048),
        replace(BASIS, hires_fix=True, sampler="k_heun", control_type="hed"),
    ]
    groups = by_group(jobs, np.array([0.01, 0.02, -0.03]))
    counted = {title: {name: each.jobs for name, each in found.items()} for title, found in groups.items()}
    assert counted == {
        "rows": {ALL: 3, PLAIN: 1},
        "sampler": {"k_euler": 2, "k_heun": 1},
        "size": {"0 to 0.25": 2, "2 to 4": 1},
        "control": {"none": 2, "hed": 1},
        "post-processing": {"GFPGAN": 1, "CodeFormers": 1, "none": 2},
        "second pass": {"on": 1, "off": 2},
    }
    assert groups["second pass"]["on"].bias == -3


def test_what_the_network_says_itself_has_no_error(tmp_path: Path) -> None:
    timings.write(tmp_path / "times.csv", [*estimated_times(), Timing(BASIS, ESTIMATOR.seconds([BASIS])[0])])
    outcome = run("--data", tmp_path / "times.csv", "--json")
    assert outcome.exit_code == 0
    found = json.loads(outcome.output)
    assert found["accuracy"]["rows"][ALL]["jobs"] == 61
    assert found["accuracy"]["rows"][ALL]["worst"] < 0.01
    assert found["monotonicity"]["pairs"] == dict.fromkeys(CHANGES, 10)
    assert found["monotonicity"]["violated"] == 0
    assert found["basis"]["price"] == 11
    assert abs(found["basis"]["error_percent"]) < 0.01
    assert found["missed"] == []


def test_misses_are_named(tmp_path: Path) -> None:
    doubled = [Timing(timing.job, timing.seconds * 2) for timing in estimated_times()]
    timings.write(tmp_path / "times.csv", doubled)
    outcome = run("--data", tmp_path / "times.csv")
    assert outcome.exit_code == 0
    assert "MISSED all: mean is 50.00 %, not 2 %" in outcome.output
    assert "more steps" in outcome.output


def test_pictures(tmp_path: Path) -> None:
    timings.write(tmp_path / "times.csv", estimated_times())
    assert run("--data", tmp_path / "times.csv", "--plots", tmp_path / "plots").exit_code == 0
    for name in (evaluate.ESTIMATES_PLOT, evaluate.SIZES_PLOT):
        assert (tmp_path / "plots" / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("text", ["width\n", ",".join(timings.COLUMNS) + "\n"])
def test_files_without_timings_are_explained(tmp_path: Path, text: str) -> None:
    (tmp_path / "times.csv").write_text(text)
    outcome = run("--data", tmp_path / "times.csv")
    assert outcome.exit_code == 1
    assert outcome.output.startswith("Error: ")
