"""The table of named backbones: complete, consistent, and with nothing in it that was made up."""

import math

import pytest
from pydantic import TypeAdapter, ValidationError

from edge_uad.errors import UsageError
from edge_uad.runtime.cache import DEFAULT_BACKBONE
from export.weights import NamedBackbone, PackageSource, UrlSource, named_backbone, weights_table

NAMES = {
    *("dino_vitb8", "dino_vits8", "dino_vitb16", "dino_vits16"),
    *("ibot_vitb16", "ibot_vits16"),
    *("dinov2_vits14", "dinov2_vitb14", "dinov2_vits14_reg", "dinov2_vitb14_reg"),
    *("dinov3_vits16", "dinov3_vits16plus", "dinov3_vitb16"),
}
STORED_PX = {"dino": 224, "ibot": 224, "dinov2": 518, "dinov3": 0}
"""Side of the images that the stored position embedding is for."""


def test_every_backbone_of_the_method_is_there() -> None:
    assert set(weights_table()) == NAMES


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_row_agrees_with_its_name(name: str) -> None:
    row = named_backbone(name)
    family, size, *registers = name.split("_")
    assert row.arch == {"vits": "vit_small", "vitb": "vit_base"}[size[:4]]
    assert row.patch_px == int(size[4:].removesuffix("plus"))
    assert row.registers == (4 if registers or family == "dinov3" else 0)
    assert row.layer_scale == (family in {"dinov2", "dinov3"})
    assert row.gated == size.endswith("plus")
    assert row.pos_grid * row.patch_px == STORED_PX[family]
    assert math.isclose(sum(row.mean), 1.347), "ImageNet's normalisation"


@pytest.mark.parametrize("name", sorted(NAMES))
def test_the_publishers_own_file_is_known_and_comes_over_https(name: str) -> None:
    *others, publisher = (source for source in named_backbone(name).sources if isinstance(source, UrlSource))
    assert publisher.url.scheme == "https"
    assert publisher.url.host in {"dl.fbaipublicfiles.com", "lf3-nlp-opensource.bytetos.com"}
    assert publisher.filename(name).endswith(".pth")
    for hub in others:
        assert str(hub.url).startswith("https://huggingface.co/facebook/"), "the publisher's own account"
        assert hub.filename(name).endswith(".safetensors")


@pytest.mark.parametrize("name", sorted(NAMES))
def test_weights_under_terms_of_their_own_say_where_these_are_accepted(name: str) -> None:
    row = named_backbone(name)
    assert (row.terms is None) == (row.licence == "Apache-2.0")


@pytest.mark.parametrize("name", sorted(name for name in NAMES if name.startswith("dinov3")))
def test_the_start_of_a_digest_is_that_of_the_files_name(name: str) -> None:
    *_, publisher = (source for source in named_backbone(name).sources if isinstance(source, UrlSource))
    assert publisher.sha256_start is not None
    assert publisher.filename(name).endswith(f"-{publisher.sha256_start}.pth")


def test_the_default_backbone_comes_first_from_where_its_digests_are_stated_and_torch_is_not_needed() -> None:
    """Otherwise its model file, and so the model id in every bank, would differ between machines."""
    first, *_ = named_backbone(DEFAULT_BACKBONE).sources
    assert isinstance(first, PackageSource)
    assert first.filename(DEFAULT_BACKBONE).endswith(".safetensors")


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"no backbone 'resnet50'; name one of dino_vitb8, .*or custom"):
        named_backbone("resnet50")


ROW = {"arch": "vit_small", "patch_px": 14, "pos_grid": 37, "licence": "Apache-2.0"}
PACKAGE = {"package": "p==1", "wheel_sha256": "0" * 64, "member": "m.onnx", "member_sha256": "0" * 64, "sha256": None}


@pytest.mark.parametrize(
    "spoilt",
    [
        {**ROW, "sources": []},
        {**ROW, "sources": [{"url": "https://a.example/w.pth"}]},
        {**ROW, "sources": [{"url": "https://a.example/w.pth", "sha256": "abc"}]},
        {**ROW, "sources": [{"url": "https://a.example/w.pth", "sha256": None, "sha256_start": "abc"}]},
        {**ROW, "pos_grid": -1, "sources": [PACKAGE]},
        {**ROW, "sources": [{"url": "ftp://a.example/w.pth", "sha256": None}]},
        {**ROW, "sources": [{"url": "http://a.example/w.pth", "sha256": None}]},
        {**ROW, "sources": [{**PACKAGE, "package": "p>=1"}]},
        {**ROW, "sources": [{**PACKAGE, "package": "--index-url=x==1 y"}]},
        {**ROW, "sources": [PACKAGE], "heads": 6},
        {**ROW, "sources": [PACKAGE], "arch": "vit_giant"},
    ],
)
def test_a_spoilt_row_is_refused(spoilt: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(NamedBackbone).validate_python(spoilt)


def test_the_row_that_was_spoilt_is_a_good_one() -> None:
    assert TypeAdapter(NamedBackbone).validate_python({**ROW, "sources": [PACKAGE]}).registers == 0
