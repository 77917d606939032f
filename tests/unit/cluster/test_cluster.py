"""What is sent to a cluster and what is refused before it; tests/service/test_cluster.py has real nodes."""

import pickle
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bank_tools.cluster.arithmetic import arithmetic, backbone_digest, drawn
from bank_tools.cluster.backbone import ShippedModel, on_cluster, shipped
from bank_tools.cluster.connect import connect
from edge_uad.errors import ClusterError, MissingExtraError, ModelError
from edge_uad.records import Embedding, Float32
from edge_uad.runtime.backbones import load_backbone
from tests.models import export_tiny_model


class Elsewhere:
    """Runs work that was pickled, as a worker does. Implements RunEach."""

    def __init__(self, work: ShippedModel) -> None:
        self.work: ShippedModel = pickle.loads(pickle.dumps(work))  # noqa: S301  # its own

    def each(self, items: Sequence[Float32]) -> list[Embedding]:
        return [self.work(item) for item in items]


def test_a_model_that_was_sent_gives_the_same_bits(tiny_model: Path) -> None:
    here = load_backbone(tiny_model)
    there = on_cluster(here, tiny_model, "cpu", Elsewhere)
    assert there.card == here.card
    pixels = drawn((3, 3, *here.card.input_hw))
    for one, other in zip(there.embed(pixels), here.embed(pixels), strict=True):
        np.testing.assert_array_equal(one.tokens.view(np.uint32), other.tokens.view(np.uint32))
        np.testing.assert_array_equal(one.attention.view(np.uint32), other.attention.view(np.uint32))
    with pytest.raises(ValueError, match="pixels"):
        there.embed(pixels[:, :1])


def test_a_model_that_gives_other_bits_elsewhere_is_refused(tiny_model: Path, other_tiny_model: Path) -> None:
    digest = backbone_digest(load_backbone(other_tiny_model))
    sent = ShippedModel(tiny_model.read_bytes(), tiny_model, provider="cpu", digest=digest)
    with pytest.raises(ClusterError, match=r"gives other last bits for model tiny\.onnx"):
        sent(drawn((3, 64, 64)))


def test_a_model_that_was_replaced_since_it_was_opened_is_not_sent(tmp_path: Path) -> None:
    path = export_tiny_model(tmp_path / "m.onnx")
    backbone = load_backbone(path)
    export_tiny_model(path, seed=1)
    with pytest.raises(ModelError, match="was replaced while it was loaded"):
        shipped(backbone, path, "cpu")


def test_a_machine_is_told_what_it_has_otherwise() -> None:
    here = arithmetic()
    assert here.difference_from(here) is None
    assert here.difference_from(replace(here, processor="another")) is None
    older = replace(
        here, versions=tuple((name, "0.9" if name == "numpy" else version) for name, version in here.versions)
    )
    found = here.difference_from(older)
    assert found is not None
    assert found.startswith("it has numpy 0.9, this machine ")
    other = here.difference_from(replace(here, digest="0" * 64, processor="another"))
    assert other is not None
    assert "its processor (another) gives other last bits" in other


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as where it is not installed
    with pytest.raises(MissingExtraError, match=r"--cluster needs .*'edge-uad\[cluster\]'"):
        connect("127.0.0.1:1")
