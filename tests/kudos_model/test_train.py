import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from kudos_model import timings, train
from kudos_model.estimator import Estimator
from kudos_model.export import load
from kudos_model.features import BASIS, COLUMNS, FEATURE_VERSION, LEARNED, encode
from kudos_model.monotonicity import random_job
from kudos_model.teacher import TOGETHER, made_up_jobs
from kudos_model.timings import Timing
from kudos_model.train import OtherTraining, Settings, Training

SMALL = Settings(
    epochs=4, teacher_epochs=3, served_epochs=1, batch=32, teacher_batch=32, widths=(12, 6), context=8
)
EPOCHS = 7


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def measured(count: int = 400) -> list[Timing]:
    """Times that grow with pixels and steps."""
    chance = random.Random(3)
    jobs = [
        replace(random_job(chance), baseline=BASIS.baseline, workflow=None, post_processing=())
        for _ in range(count)
    ]
    return [Timing(job, 2 + job.steps * (1 + job.width * job.height / 1024**2) / 20) for job in jobs]


def weights(training: Training) -> list[torch.Tensor]:
    return [each.clone() for each in training.network.state_dict().values()]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(left, right) for left, right in zip(one, other, strict=True))


def test_both_learn_and_never_from_what_is_held_out() -> None:
    training = Training(measured(), SMALL)
    assert training.left == EPOCHS
    errors = [training.run_epoch() for _ in range(EPOCHS)]
    assert training.left == 0
    assert errors[SMALL.teacher_epochs - 1] < errors[0] * 0.7
    assert errors[-1] < errors[SMALL.teacher_epochs] * 0.7
    assert (len(training.rows), len(training.held_out)) == (380, 20)


def test_the_path_is_kept_monotone() -> None:
    training = Training(measured(), replace(SMALL, teacher_epochs=0))
    training.run_epoch()
    assert all((each >= 0).all() for each in (*training.network.path, training.network.sum))


def test_the_same_seed_gives_the_same_network(tmp_path: Path) -> None:
    first, second, other = (Training(measured(), replace(SMALL, seed=seed)) for seed in (1, 1, 2))
    for training in (first, second, other):
        train.train(training, tmp_path / f"{id(training)}.pt", "")
    assert same(weights(first), weights(second))
    assert not same(weights(first), weights(other))


def test_made_up_jobs_are_put_together_from_timed_ones() -> None:
    rows = torch.tensor(encode([timing.job for timing in measured()]))
    made = made_up_jobs(rows, torch.Generator().manual_seed(1))
    assert made.shape == rows.shape
    assert not torch.equal(made, rows)
    for names in TOGETHER:
        columns = [COLUMNS.index(name) for name in names]
        seen = {tuple(row) for row in rows[:, columns].tolist()}
        assert {tuple(row) for row in made[:, columns].tolist()} <= seen
    everything = [name for names in TOGETHER for name in names]
    assert sorted(everything) == sorted(LEARNED)


@pytest.mark.parametrize("epochs", [2, 3, 5])
def test_an_interrupted_training_ends_as_if_it_had_not_been(tmp_path: Path, epochs: int) -> None:
    whole, interrupted = Training(measured(), SMALL), Training(measured(), SMALL)
    train.train(whole, tmp_path / "whole.pt", "data")
    for _ in range(epochs):
        interrupted.run_epoch()
    interrupted.save(tmp_path / "part.pt", "data")
    resumed = Training(measured(), SMALL)
    train.train(resumed, tmp_path / "part.pt", "data")
    assert resumed.left == 0
    assert same(weights(whole), weights(resumed))


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    Training(measured(), SMALL).save(tmp_path / "part.pt", "data")
    for settings, digest in ((SMALL, "other data"), (replace(SMALL, epochs=5), "data")):
        with pytest.raises(OtherTraining, match="Remove it to begin anew"):
            Training(measured(), settings).resume(tmp_path / "part.pt", digest)


def run(tmp_path: Path, *options: str) -> str:
    files = {"--data": "times.csv", "--out": "made.onnx", "--checkpoint": "checkpoint.pt"}
    named = [part for option, name in files.items() for part in (option, str(tmp_path / name))]
    outcome = CliRunner().invoke(train.main, [*named, *options])
    return f"{outcome.exit_code} {outcome.output}"


def test_the_command_writes_a_network_that_knows_where_it_is_from(tmp_path: Path) -> None:
    timings.write(tmp_path / "times.csv", measured())
    outcome = run(
        tmp_path,
        "--epochs",
        "1",
        "--teacher-epochs",
        "1",
        "--seed",
        "7",
        "--held-out",
        str(tmp_path / "held-out.csv"),
    )
    assert outcome.startswith("0 ")
    assert "MISSED all: mean is" in outcome
    facts = Estimator(tmp_path / "made.onnx").facts
    assert len(timings.read(tmp_path / "held-out.csv")) == 20
    assert facts["data"] == timings.digest(tmp_path / "times.csv")
    assert (facts["seed"], facts["epochs"], facts["timings"], facts["held_out"]) == (7, 1, 380, 20)
    assert facts["errors_percent"]["all"]["jobs"] == 20
    assert load(tmp_path / "made.onnx").factors.flatten().tolist() == list(facts["factors"].values())
    assert FEATURE_VERSION == 1


def test_bad_timings_are_explained(tmp_path: Path) -> None:
    (tmp_path / "times.csv").write_text("width\n")
    assert run(tmp_path).startswith("1 Error: ")
    assert "lacks the columns" in run(tmp_path)


def test_timings_that_do_not_exist_are_explained(tmp_path: Path) -> None:
    assert "times.csv" in run(tmp_path)
    assert "Traceback" not in run(tmp_path)
