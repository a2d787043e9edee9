"""The trained network as ONNX, which is what the server runs, and back.

The graph is written node by node: it is small, and the file then depends on nothing but the weights. These
keep the names and shapes that they have in PyTorch.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from kudos_model.estimator import INPUT, OUTPUT
from kudos_model.features import COLUMNS, FEATURE_VERSION, SIZES
from kudos_model.network import LEAST_SECONDS, PARTS, SECONDS, MonotoneNetwork

OPSET, IR_VERSION = 17, 8


class _Graph:
    """Nodes and constants as they are added. Methods return the names of what they made."""

    def __init__(self, network: MonotoneNetwork) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}
        for name, weights in network.state_dict().items():
            self._keep(name, weights.numpy())

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        return self._keep(f"constant{len(self.constants)}", np.array(value, dtype))

    def add(self, operator: str, *inputs: str, outputs: int = 1, **attributes: Any) -> list[str]:
        names = [f"value{len(self.nodes)}_{number}" for number in range(outputs)]
        self.nodes.append(helper.make_node(operator, inputs, names, **attributes))
        return names

    def one(self, operator: str, *inputs: str, **attributes: Any) -> str:
        return self.add(operator, *inputs, **attributes)[0]

    def split(self, value: str, sizes: list[int]) -> list[str]:
        return self.add("Split", value, self.constant(sizes, np.int64), outputs=len(sizes), axis=1)

    def linear(self, value: str, name: str) -> str:
        """A layer of PyTorch with its bias."""
        return self.one("Gemm", value, f"{name}.weight", f"{name}.bias", transB=1)

    def _keep(self, name: str, value: Any) -> str:
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name


def model(network: MonotoneNetwork, facts: Mapping[str, Any]) -> Any:
    """`network` as ONNX, with `facts` about it and the version of the features in its metadata."""
    graph = _Graph(network)
    sizes, free, untimed, factors = graph.split(INPUT, PARTS)
    seconds = graph.one("Max", _learned(graph, network, sizes, free), graph.constant([[LEAST_SECONDS]]))
    fixed, by_area = graph.split(graph.one("MatMul", untimed, "untimed"), [1, 1])
    area = graph.one("Gather", sizes, graph.constant([SIZES.index("area")], np.int64), axis=1)
    extras = graph.one("Add", fixed, graph.one("Mul", by_area, area))
    factor = graph.one("MatMul", factors, "factors")
    graph.nodes.append(helper.make_node("Mul", [graph.one("Add", seconds, extras), factor], [OUTPUT]))
    made = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "seconds",
            [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["n", len(COLUMNS)])],
            [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["n", 1])],
            list(graph.constants.values()),
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="kudos_model",
    )
    helper.set_model_props(made, {"feature_version": str(FEATURE_VERSION), "facts": json.dumps(dict(facts))})
    onnx.checker.check_model(made, full_check=True)
    return made


def _learned(graph: _Graph, network: MonotoneNetwork, sizes: str, free: str) -> str:
    """The part that is trained; mirrors `MonotoneNetwork.learned_seconds`."""
    context = graph.one("Relu", graph.linear(free, "circumstances.0"))
    context = graph.one("Relu", graph.linear(context, "circumstances.2"))
    half = len(network.steered) // 2
    lengths = network.steered[:half], network.steered[half:]
    scales, shifts = graph.split(graph.linear(context, "steering"), [sum(part) for part in lengths])
    scale = graph.split(graph.one("Relu", scales), lengths[0])
    shift = graph.split(shifts, lengths[1])
    units = sizes
    for number, weights in enumerate(network.path):
        product = graph.one("Gemm", units, f"path.{number}", transB=1)
        scaled = graph.one("Mul", product, scale[number])
        units = _rising(graph, graph.one("Add", scaled, shift[number]), len(weights))
    total = graph.one("Gemm", graph.one("Mul", units, scale[-1]), "sum", transB=1)
    return graph.one("Mul", graph.one("Add", total, shift[-1]), graph.constant([[SECONDS]]))


def _rising(graph: _Graph, values: str, width: int) -> str:
    """A third of the units each convex, concave and bounded: what a clip to other limits makes of each."""
    third, most = width // 3, float(np.finfo(np.float32).max)
    lower = graph.constant([[0.0] * third + [-most] * third + [-1.0] * third])
    upper = graph.constant([[most] * third + [0.0] * third + [1.0] * third])
    return graph.one("Min", graph.one("Max", values, lower), upper)


def save(network: MonotoneNetwork, facts: Mapping[str, Any], path: Path) -> None:
    """Write the network where the server looks for it, or elsewhere."""
    onnx.save(model(network, facts), path)


def load(path: Path) -> MonotoneNetwork:
    """The network in a file that `save` wrote."""
    constants = {each.name: numpy_helper.to_array(each) for each in onnx.load(path).graph.initializer}
    depth = sum(name.startswith("path.") for name in constants)
    widths = [len(constants[f"path.{number}"]) for number in range(depth)]
    network = MonotoneNetwork(widths, len(constants["circumstances.0.weight"]))
    network.load_state_dict({name: torch.tensor(constants[name]) for name in network.state_dict()})
    return network
