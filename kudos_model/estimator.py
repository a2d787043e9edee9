"""How long jobs take, as the server knows it: the network in `kudos.onnx`, run by onnxruntime."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidGraph, InvalidProtobuf, NoSuchFile

from kudos_model.anchors import factor_names
from kudos_model.envelope import slowest, with_fewer_extras
from kudos_model.features import FEATURE_VERSION, JobFeatures, Matrix, readings

NETWORK = Path(__file__).with_name("kudos.onnx")
INPUT, OUTPUT = "rows", "seconds"
"""Names in the network's file: rows of `features.COLUMNS`, and for each a row of seconds."""
MOST_ROWS = 256
"""Rows in one run of the network: as many as leave its numbers in a core's own cache."""


class WrongNetwork(Exception):
    """A network that this version of the code cannot use."""


class Estimator:
    """Estimates seconds on the reference GPU. Cheap to make, safe to use from several threads.

    Raises `WrongNetwork` if the file is not a network, or one for other features than ours.
    """

    def __init__(self, network: Path = NETWORK) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        try:
            self._session = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
        except (Fail, InvalidGraph, InvalidProtobuf, NoSuchFile) as error:
            raise WrongNetwork(f"The pricing network {network} cannot be read: {error}") from error
        properties = self._session.get_modelmeta().custom_metadata_map
        version = properties.get("feature_version")
        if version != str(FEATURE_VERSION):
            raise WrongNetwork(
                f"{network} was made for version {version} of the features, this is version "
                f"{FEATURE_VERSION}. Train and export it again: python -m kudos_model.train"
            )
        self.facts: dict[str, Any] = json.loads(properties["facts"])
        """What it was made of and how well it does (see `kudos_model.export`)."""

    def seconds(self, jobs: Sequence[JobFeatures]) -> list[float]:
        """Seconds for one image of each job, in their order.

        More steps, a larger width or height, one more post-processor, a second pass or a control map never
        make it less.
        """
        if not jobs:
            return []
        read = [readings(job) for job in jobs]
        rows, owners = with_fewer_extras([reading for group in read for reading in group])
        if len(rows) > len(jobs):
            owners = np.repeat(np.arange(len(jobs)), [len(group) for group in read])[owners]
            seconds: list[float] = slowest(self._run(rows), owners).tolist()
        else:
            seconds = self._run(rows).tolist()
        return seconds

    def factor(self, baseline: str, *, hires_fix: bool, workflow: str | None) -> float:
        """What models of `baseline` take, as a multiple of what Stable Diffusion 1 does."""
        names = factor_names(baseline, hires_fix=hires_fix, workflow=workflow)
        return float(sum(self.facts["factors"][name] for name in names))

    def _run(self, rows: Matrix) -> Matrix:
        parts = [
            self._session.run([OUTPUT], {INPUT: rows[start : start + MOST_ROWS]})[0]
            for start in range(0, len(rows), MOST_ROWS)
        ]
        return np.concatenate(parts)[:, 0]
