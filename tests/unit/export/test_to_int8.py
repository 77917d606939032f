"""An int8 model computes its products with weights in int8, and nothing else."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from edge_uad.errors import UsageError
from edge_uad.inference.backbones import open_backbone
from export.request import ExportRequest
from export.to_int8 import export_int8, spread
from tests.models import random_weights

BLOCKS = 2
PRODUCTS_PER_BLOCK = 4
"""Queries, keys and values in one; the projection; two of the MLP."""


def request() -> ExportRequest:
    return ExportRequest(
        backbone="tiny",
        input_hw=(64, 64),
        layers=(0, 1),
        attention_layer=1,
        licence="none",
        weights_sha256="0" * 64,
    )


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("good")
    rng = np.random.default_rng(0)
    files = [folder / f"{index}.png" for index in range(4)]
    for file in files:
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(file)
    return files


@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"layer_scale": True},
        {"layer_scale": True, "registers": 4, "pos_grid": 0},
        {"layer_scale": True, "registers": 4, "pos_grid": 0, "gated": True},
    ],
)
def test_products_with_weights_are_int8_and_their_results_float(
    kind: dict[str, Any], good: list[Path], tmp_path: Path
) -> None:
    path = tmp_path / "int8.onnx"
    differences = export_int8(random_weights(**kind), request(), path, good=good)
    assert all(0 < difference.largest < 0.1 for difference in differences)

    assert open_backbone(path).card.precision == "int8"
    graph = onnx.load(path).graph
    dequantised = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    products = [node for node in graph.node if node.op_type in {"MatMul", "Gemm"}]
    in_int8 = [node for node in products if set(node.input[:2]) <= dequantised]
    assert len(in_int8) == BLOCKS * PRODUCTS_PER_BLOCK, "a gate and what it opens are one product"
    assert all(not set(node.input) & dequantised for node in products if node not in in_int8)
    quantised = {node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    assert not quantised & {node.output[0] for node in products}


def test_too_few_good_parts_are_refused(good: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="1 good parts of --calibrate can be read, at least 2 are needed"):
        export_int8(random_weights(), request(), tmp_path / "int8.onnx", good=good[:1])
    assert not list(tmp_path.iterdir())


def test_files_are_taken_from_the_whole_folder() -> None:
    files = [Path(str(index)) for index in range(100)]
    assert spread(files, 4) == [files[0], files[33], files[66], files[99]]
    assert spread(files[:2], 4) == files[:2]
