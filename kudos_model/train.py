"""`python -m kudos_model.train`: trains the network and writes the `kudos.onnx` that the server runs.

First a teacher learns the timings: a network without any constraint, small enough that it has to find the
rule rather than the rows (see `kudos_model.teacher`). Then the network that is served learns from the same
timings and from as many jobs that nobody timed, with the teacher's estimates. It has more weights than a
small set of timings could settle, and meets other jobs in every epoch (distillation: Hinton, Vinyals and
Dean, 2015).

What is served is the network's upper envelope (see `kudos_model.envelope`), so in its last epochs the
network learns as that.

Both minimise the mean relative error and, so that no job is far off, its square. The same seed and timings
give the same network on the same kind of machine. A training that was interrupted goes on from its last
whole epoch when it is started again.
"""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor

from kudos_model import export, timings
from kudos_model.accuracy import by_group, relative_errors
from kudos_model.envelope import expand, switches
from kudos_model.estimator import NETWORK, Estimator
from kudos_model.evaluate import estimate, missed
from kudos_model.factors import factors_from
from kudos_model.features import BASIS, FEATURE_VERSION, encode
from kudos_model.fitting import Fit
from kudos_model.network import MonotoneNetwork
from kudos_model.teacher import Teacher, made_up_jobs
from kudos_model.timings import DATA, BadTimings, Timing

CHECKPOINT = Path("var") / "kudos-training.pt"
HELD_OUT = 0.05
"""Part of the timings that is not trained on."""
BASIS_WEIGHT = 20.0
"""Times that the basis job counts: every price is relative to it."""


class OtherTraining(Exception):
    """A checkpoint of a training with other settings or timings."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What decides how a training goes."""

    epochs: int = 70
    teacher_epochs: int = 100
    served_epochs: int = 6
    """How many of `epochs`, the last ones, are learned as they are served."""
    seed: int = 0
    batch: int = 512
    teacher_batch: int = 256
    learning_rate: float = 4e-3
    widths: tuple[int, ...] = (240, 96)
    context: int = 128


DEFAULTS = Settings()


class Training:
    """A teacher and a network on their way, and the timings that they learn from."""

    def __init__(self, measured: Sequence[Timing], settings: Settings) -> None:
        torch.manual_seed(settings.seed)
        order = np.random.default_rng(settings.seed).permutation(len(measured))
        held_out = max(1, round(len(measured) * HELD_OUT))
        self.settings = settings
        self.held_out = [measured[number] for number in order[:held_out]]
        learned = [measured[number] for number in order[held_out:]]
        self.rows = torch.tensor(encode([timing.job for timing in learned]))
        self.seconds = torch.tensor([timing.seconds for timing in learned])
        self.weights = (self.rows == torch.tensor(encode([BASIS]))).all(dim=1) * (BASIS_WEIGHT - 1) + 1
        self.teacher = Teacher()
        self.network = MonotoneNetwork(settings.widths, settings.context)
        rate, count = settings.learning_rate, len(learned)
        self.teaching = Fit(self.teacher, count, settings.teacher_batch, settings.teacher_epochs, rate)
        self.learning = Fit(self.network, 2 * count, settings.batch, settings.epochs, rate)

    def run_epoch(self) -> float:
        """One more epoch, of the teacher and then of the network; the mean relative error meanwhile."""
        done = self.teaching.epoch + self.learning.epoch
        chance = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + done)
        if not self.teaching.finished:
            return self.teaching.run_epoch(
                self.rows, self.seconds, self.weights, chance, estimate=self.teacher
            )
        rows = made_up_jobs(self.rows, chance)
        seconds = self.teacher.estimate(rows)
        return self.learning.run_epoch(
            torch.cat([self.rows, rows]),
            torch.cat([self.seconds, seconds]),
            torch.cat([self.weights, torch.ones(len(rows))]),
            chance,
            estimate=self._served if self.learning.left <= self.settings.served_epochs else self.network,
            after_step=self.network.keep_monotone,
        )

    def _served(self, rows: Tensor) -> Tensor:
        """The seconds of each row as the server gives them."""
        expanded, owners = expand(rows.numpy(), switches(rows.numpy()))
        seconds = self.network(torch.from_numpy(expanded))
        slowest = torch.zeros(len(rows))
        return slowest.scatter_reduce(0, torch.from_numpy(owners), seconds, "amax", include_self=False)

    @property
    def left(self) -> int:
        """Epochs that are still to be run."""
        return self.teaching.left + self.learning.left

    def save(self, path: Path, digest: str) -> None:
        """Write where the training is, in one step."""
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".new")
        torch.save({"of": self._identity(digest), **self._states()}, unfinished)
        unfinished.replace(path)

    def resume(self, path: Path, digest: str) -> None:
        """Go on where `path` was written. Raises `OtherTraining`."""
        saved = torch.load(path, weights_only=True)
        if saved["of"] != self._identity(digest):
            raise OtherTraining(
                f"{path} belongs to a training with other settings or timings. Remove it to begin anew,"
                " or name another with --checkpoint."
            )
        self.teaching.load_state(saved["teaching"])
        self.learning.load_state(saved["learning"])

    def _identity(self, digest: str) -> dict[str, Any]:
        return {**dataclasses.asdict(self.settings), "features": FEATURE_VERSION, "data": digest}

    def _states(self) -> dict[str, Any]:
        return {"teaching": self.teaching.state(), "learning": self.learning.state()}


def train(training: Training, checkpoint: Path, digest: str) -> MonotoneNetwork:
    """The network after all epochs; goes on from `checkpoint` if that exists, and keeps it up to date."""
    if checkpoint.exists():
        training.resume(checkpoint, digest)
        click.echo(f"Going on; {training.left} epochs are left.")
    with click.progressbar(range(training.left), label="Teacher", show_pos=True, file=sys.stderr) as epochs:
        for _ in epochs:
            name = "Network" if training.teaching.finished else "Teacher"
            error = training.run_epoch()
            training.save(checkpoint, digest)
            epochs.label = f"{name}, {error:.2%} off"
    return training.network


def export_with_figures(training: Training, digest: str, factors: dict[str, float], path: Path) -> list[str]:
    """Write the network with what it is made of and how well it does; the targets that it misses."""
    facts: dict[str, Any] = {
        **dataclasses.asdict(training.settings),
        "data": digest,
        "timings": len(training.rows),
        "held_out": len(training.held_out),
        "factors": factors,
    }
    export.save(training.network, facts, path)
    jobs = [timing.job for timing in training.held_out]
    estimated = estimate(Estimator(path), jobs)
    errors = relative_errors(estimated, [timing.seconds for timing in training.held_out])
    rows = by_group(jobs, errors)["rows"]
    facts["errors_percent"] = {name: found.as_dict() for name, found in rows.items()}
    export.save(training.network, facts, path)
    for name, found in rows.items():
        click.echo(
            f"{found.jobs} jobs not trained on, {name}: mean {found.mean:.2f} %, median {found.p50:.2f} %,"
            f" 99th percentile {found.p99:.2f} %, worst {found.worst:.1f} %"
        )
    return missed(rows)


@click.command()
@click.option("--data", type=click.Path(dir_okay=False, path_type=Path), default=DATA, help="Timings as CSV.")
@click.option(
    "--measured",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Timings of all families.",
)
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), default=NETWORK, help="Where it goes."
)
@click.option(
    "--checkpoint", type=click.Path(dir_okay=False, path_type=Path), default=CHECKPOINT, show_default=True
)
@click.option("--epochs", type=click.IntRange(1), default=DEFAULTS.epochs, show_default=True)
@click.option("--teacher-epochs", type=click.IntRange(0), default=DEFAULTS.teacher_epochs, show_default=True)
@click.option(
    "--held-out", type=click.Path(dir_okay=False, path_type=Path), help="CSV of what was not trained on."
)
@click.option("--seed", type=click.IntRange(0), default=DEFAULTS.seed, show_default=True)
def main(
    data: Path,
    measured: Path | None,
    out: Path,
    checkpoint: Path,
    epochs: int,
    teacher_epochs: int,
    held_out: Path | None,
    seed: int,
) -> None:
    """Train the network that estimates how long a job takes, and export it for the server."""
    try:
        timed = timings.read(data)
        factors = factors_from(timings.read(measured) if measured else [])
        digest = timings.digest(data)
        training = Training(timed, Settings(epochs, teacher_epochs, seed=seed))
        train(training, checkpoint, digest)
    except (BadTimings, OtherTraining, FileNotFoundError) as error:
        raise click.ClickException(str(error)) from error
    if held_out:
        timings.write(held_out, training.held_out)
    training.network.set_factors(factors)
    for target in export_with_figures(training, digest, factors, out):
        click.echo(f"MISSED {target}")
    click.echo(f"Wrote {out} ({out.stat().st_size:,} bytes).")


if __name__ == "__main__":
    main()
