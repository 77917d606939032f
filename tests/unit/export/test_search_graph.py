"""The model of the nearest-neighbour search in the package is the one that ``export/search_graph.py`` writes."""

from importlib.resources import files

import pytest


def test_the_file_in_the_package_is_what_the_exporter_writes() -> None:
    pytest.importorskip("onnx", reason="the graph is written with the onnx package")
    from export.search_graph import FILE_NAME, search_graph  # noqa: PLC0415  # after the skip

    assert (files("edge_uad.inference") / FILE_NAME).read_bytes() == search_graph()
