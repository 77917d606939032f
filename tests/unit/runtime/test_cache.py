"""A bank of an earlier default backbone is refused with the path of that backbone, while it is in the cache."""

import hashlib
import shutil
from pathlib import Path

import pytest

from edge_uad.errors import ModelError
from edge_uad.runtime.assemble import load_inspector
from edge_uad.runtime.backbones import load_backbone
from edge_uad.runtime.cache import DEFAULT_MODEL_REVISION, cached_model, default_model_path


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGE_UAD_CACHE", str(tmp_path / "cache"))
    folder = default_model_path().parent
    folder.mkdir(parents=True)
    return folder


def of_revision(folder: Path, revision: int) -> Path:
    return folder / default_model_path().name.replace(f"-r{DEFAULT_MODEL_REVISION}.", f"-r{revision}.")


def test_the_model_of_each_earlier_revision_is_found_by_its_hash(models: Path) -> None:
    for revision in range(1, DEFAULT_MODEL_REVISION):
        of_revision(models, revision).write_bytes(str(revision).encode())
    for revision in range(1, DEFAULT_MODEL_REVISION):
        model_id = hashlib.sha256(str(revision).encode()).hexdigest()
        assert cached_model(model_id) == of_revision(models, revision)
    assert cached_model("0" * 64) is None


def test_its_bank_is_refused_with_its_path(
    models: Path, tiny_model: Path, other_tiny_model: Path, tiny_bank: Path
) -> None:
    backbone = load_backbone(other_tiny_model, threads=1)
    with pytest.raises(ModelError, match=r"name the bank's own model with --model FILE, or rerun edge-uad build-bank"):
        load_inspector(backbone, tiny_bank)
    older = of_revision(models, DEFAULT_MODEL_REVISION - 1)
    shutil.copy(tiny_model, older)
    with pytest.raises(ModelError, match=f"name the bank's own model with --model {older}, or rerun"):
        load_inspector(backbone, tiny_bank)
