"""The nearest-neighbour search as an ONNX model, which ``edge_uad.inference.search`` runs.

``python -m export.search_graph`` writes it into the package as ``edge_uad/inference/nearest.onnx``.
"""

from importlib.resources import files
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from edge_uad.files import write_atomically

OPSET, IR_VERSION = 17, 8
FILE_NAME = "nearest.onnx"
"""In the package ``edge_uad.inference``."""


def search_graph() -> bytes:
    """The model, serialised; the same bytes every time.

    Inputs are queries float32 (n, dim), patches float32 (m, dim), both unit norm, and k int64 (1,), at most m. Outputs
    are the k highest cosines of each query, float32 (n, k), and their rows, int64 (n, k), of equal ones the first.
    """
    nodes = [
        helper.make_node("Gemm", ["queries", "patches"], ["cosines"], transB=1),
        helper.make_node("TopK", ["cosines", "k"], ["best", "rows"], axis=1),
    ]
    inputs = [
        helper.make_tensor_value_info("queries", TensorProto.FLOAT, ["n", "dim"]),
        helper.make_tensor_value_info("patches", TensorProto.FLOAT, ["m", "dim"]),
        helper.make_tensor_value_info("k", TensorProto.INT64, [1]),
    ]
    outputs = [
        helper.make_tensor_value_info("best", TensorProto.FLOAT, ["n", "j"]),
        helper.make_tensor_value_info("rows", TensorProto.INT64, ["n", "j"]),
    ]
    graph = helper.make_graph(nodes, "nearest", inputs, outputs)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name=""
    )
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


if __name__ == "__main__":
    target = Path(str(files("edge_uad.inference"))) / FILE_NAME
    write_atomically(target, search_graph())
    print(target)
