"""The model of the nearest-neighbour search in the package is the one that ``export/search_graph.py`` writes."""

from importlib.resources import files

from export.search_graph import FILE_NAME, search_graph


def test_the_file_in_the_package_is_what_the_exporter_writes() -> None:
    assert (files("edge_uad.inference") / FILE_NAME).read_bytes() == search_graph()
