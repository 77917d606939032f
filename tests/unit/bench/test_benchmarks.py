"""What benchmarks compare is worth comparing: the exact methods find the nearest, the samplers choose alike."""

import importlib
import pkgutil
from itertools import islice

import numpy as np
import pytest

import benchmarks
from bank_tools.bank.coreset import N_ANCHORS, greedy_coreset
from benchmarks.coreset import all_pairs_first, one_pass_each, projected
from benchmarks.search import METHODS, PREFIX_BLOCK_ROWS, Method
from tests.banks import brute_force, unit_rows


@pytest.mark.parametrize("name", [module.name for module in pkgutil.iter_modules(benchmarks.__path__)])
def test_every_benchmark_finds_what_it_measures(name: str) -> None:
    """They are run by hand, months apart: a name that was moved must not wait until then."""
    importlib.import_module(f"benchmarks.{name}")


@pytest.mark.parametrize("method", [method for method in METHODS if method.exact], ids=lambda method: method.name)
@pytest.mark.parametrize("dim", [24, 200])
def test_an_exact_method_finds_the_nearest(method: Method, dim: int) -> None:
    rng = np.random.default_rng(dim)
    patches, queries = unit_rows(rng, PREFIX_BLOCK_ROWS + 500, dim), unit_rows(rng, 9, dim)
    np.testing.assert_array_equal(method.build(patches)(queries), brute_force(queries, patches, 1)[1][:, 0])


def test_all_samplers_choose_the_same_patches() -> None:
    patches = unit_rows(np.random.default_rng(0), 800, 160)
    rng = np.random.default_rng(0)
    points = projected(patches, rng)
    anchors = rng.choice(len(points), N_ANCHORS, replace=False)
    own = greedy_coreset(patches, ratio=0.1, seed=0)
    for choices in (one_pass_each(points, anchors), all_pairs_first(points, anchors)):
        np.testing.assert_array_equal(np.sort(list(islice(choices, 80))), own)
