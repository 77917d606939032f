"""Tensors in other files are found wherever an ONNX model can hold a tensor."""

import contextlib
from collections.abc import Callable

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edge_uad.inference.backbones.external import has_external_data


def external_tensor() -> onnx.TensorProto:
    tensor = onnx.TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="w.bin")
    return tensor


def attribute(**content: object) -> onnx.NodeProto:
    node = onnx.NodeProto(op_type="Constant", output=["w"])
    node.attribute.add(name="value", **content)
    return node


def graph_of(*nodes: onnx.NodeProto, **content: object) -> onnx.GraphProto:
    return onnx.GraphProto(name="g", node=nodes, **content)


def sparse(part: str) -> onnx.SparseTensorProto:
    return onnx.SparseTensorProto(**{part: external_tensor()})


PLACES: dict[str, Callable[[], onnx.ModelProto]] = {
    "initializer": lambda: onnx.ModelProto(graph=graph_of(initializer=[external_tensor()])),
    "sparse values": lambda: onnx.ModelProto(graph=graph_of(sparse_initializer=[sparse("values")])),
    "sparse indices": lambda: onnx.ModelProto(graph=graph_of(sparse_initializer=[sparse("indices")])),
    "attribute": lambda: onnx.ModelProto(graph=graph_of(attribute(t=external_tensor()))),
    "attribute's list": lambda: onnx.ModelProto(graph=graph_of(attribute(tensors=[external_tensor()]))),
    "sparse attribute": lambda: onnx.ModelProto(graph=graph_of(attribute(sparse_tensor=sparse("values")))),
    "sparse attribute's list": lambda: onnx.ModelProto(graph=graph_of(attribute(sparse_tensors=[sparse("values")]))),
    "inner graph": lambda: onnx.ModelProto(graph=graph_of(attribute(g=graph_of(initializer=[external_tensor()])))),
    "list of inner graphs": lambda: onnx.ModelProto(
        graph=graph_of(attribute(graphs=[graph_of(), graph_of(attribute(t=external_tensor()))]))
    ),
    "function": lambda: onnx.ModelProto(
        functions=[onnx.FunctionProto(name="f", node=[attribute(t=external_tensor())])]
    ),
    "function's default": lambda: onnx.ModelProto(
        functions=[onnx.FunctionProto(attribute_proto=attribute(t=external_tensor()).attribute)]
    ),
    "training": lambda: onnx.ModelProto(
        training_info=[onnx.TrainingInfoProto(algorithm=graph_of(initializer=[external_tensor()]))]
    ),
}


@pytest.mark.parametrize("place", PLACES)
def test_it_is_found(place: str) -> None:
    content = PLACES[place]().SerializeToString()
    assert has_external_data(memoryview(content))
    assert has_external_data(memoryview(onnx.ModelProto(producer_name="x" * 300).SerializeToString() + content))


def test_every_message_that_holds_tensors_is_known() -> None:
    """By onnx's own description: whoever reaches a TensorProto is walked through."""
    found, stack = set(), [(onnx.ModelProto.DESCRIPTOR, ("ModelProto",))]
    while stack:
        message, way = stack.pop()
        for field in message.fields:
            inner = field.message_type
            if inner is None or inner.name in way:
                continue
            if inner.name == "TensorProto":
                found.add((message.name, field.name))
            stack.append((inner, (*way, inner.name)))
    assert found == {
        ("AttributeProto", "t"),
        ("AttributeProto", "tensors"),
        ("GraphProto", "initializer"),
        ("SparseTensorProto", "values"),
        ("SparseTensorProto", "indices"),
    }


def test_a_location_written_without_an_address_counts() -> None:
    tensor = onnx.TensorProto(data_location=TensorProto.EXTERNAL)
    assert has_external_data(memoryview(onnx.ModelProto(graph=graph_of(initializer=[tensor])).SerializeToString()))


def test_a_model_of_one_file_has_none() -> None:
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, 2.0])
    tensor.data_location = TensorProto.DEFAULT
    for content in (graph_of(initializer=[tensor]), graph_of(attribute(t=tensor, ints=[1, 2], f=0.5))):
        assert not has_external_data(memoryview(onnx.ModelProto(graph=content).SerializeToString()))


def test_graphs_nested_without_end_are_refused() -> None:
    content = b""
    for depth in range(120):
        field = (5, 1, 6)[depth % 3] if depth < 119 else 7  # attribute, node, graph; outermost the model's graph
        size = len(content)
        content = bytes([field << 3 | 2, size & 0x7F | 0x80, size >> 7]) + content
    with pytest.raises(ValueError, match="too deep"):
        has_external_data(memoryview(content))


@given(st.binary(max_size=200))
def test_bytes_of_any_kind_are_read_or_refused(content: bytes) -> None:
    with contextlib.suppress(ValueError):
        has_external_data(memoryview(content))


@given(st.integers(0, 10**6))
def test_a_model_cut_anywhere_is_read_or_refused(at: int) -> None:
    content = PLACES["initializer"]().SerializeToString()
    with contextlib.suppress(ValueError):
        has_external_data(memoryview(content[: at % len(content)]))
