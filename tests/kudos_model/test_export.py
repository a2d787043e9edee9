import random
from pathlib import Path

import numpy as np
import torch

from kudos_model.envelope import slowest, with_fewer_extras
from kudos_model.estimator import NETWORK, Estimator
from kudos_model.export import load, save
from kudos_model.features import readings
from kudos_model.monotonicity import random_job


def test_pytorch_and_the_served_network_agree() -> None:
    chance = random.Random(4)
    jobs = [random_job(chance) for _ in range(10_000)]
    assert all(readings(job) == [job] for job in jobs)
    rows, owners = with_fewer_extras(jobs)
    with torch.no_grad():
        by_pytorch = slowest(load(NETWORK)(torch.tensor(rows)).numpy(), owners)
    served = np.array(Estimator().seconds(jobs))
    assert np.abs(served / by_pytorch - 1).max() <= 1e-4


def test_saving_what_was_loaded_changes_nothing(tmp_path: Path) -> None:
    network = load(NETWORK)
    save(network, Estimator().facts, tmp_path / "again.onnx")
    again = load(tmp_path / "again.onnx").state_dict()
    assert all(torch.equal(weights, again[name]) for name, weights in network.state_dict().items())
    assert (tmp_path / "again.onnx").read_bytes() == NETWORK.read_bytes()
