"""A bank that is certified for a lower precision, from building to judging, on this machine and on a lesser one."""

import json
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("openvino", reason="the [openvino] extra is not installed")

from bank_tools.bank.build import build_bank  # after the skip
from bank_tools.bank.good_images import embed_all  # after the skip
from bank_tools.bank.precision_trial import prepare_trial  # as above
from bank_tools.bank.recipe import embedder_for, recipe_for  # as above
from edge_uad.inference.backbones.processor import HIDDEN_VARIABLE, cpu_flags, features_of  # as above
from edge_uad.progress import SilentProgress  # as above
from edge_uad.runtime.backbones import load_backbone  # as above
from edge_uad.sources.folder import FolderSource  # as above
from edge_uad.sources.recorded import frames_of  # as above
from tests.conftest import edge_uad

pytestmark = [
    pytest.mark.skipif("bf16" not in features_of(cpu_flags()), reason="this processor has no bf16"),
    pytest.mark.usefixtures("every_feature"),
]


@pytest.fixture(scope="module")
def certified_bank(
    every_feature: None,  # noqa: ARG001  # the mark that uses a fixture is for tests alone
    tiny_model: Path,
    good_parts: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Certified for bf16, whether that wins time on so small a model or not."""
    files = sorted(good_parts.glob("*.png"))
    backbone = load_backbone(tiny_model, threads=1)
    recipe = recipe_for(backbone.card)
    embedder = embedder_for(backbone, recipe)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bank_tools.bank.precision_trial.WORTH_RATIO", float("inf"))
        trial, _ = prepare_trial(
            tiny_model, embedder, recipe, ("bf16",), total=len(files), workers=1, progress=SilentProgress()
        )
    images = embed_all(frames_of(FolderSource("line", files)), embedder, 24, SilentProgress(), trial=trial)
    built = build_bank(images, recipe=recipe, embedder=embedder, progress=SilentProgress())
    assert [one.precision for one in built.bank.manifest.precisions] == ["bf16"]
    path = tmp_path_factory.mktemp("certified") / "bank.safetensors"
    built.bank.save(path)
    return path


def inspected(bank: Path, model: Path, parts: Path, *options: str) -> tuple[list[float], str]:
    done = edge_uad("inspect", parts, "--bank", bank, "--model", model, "--json", *options)
    return [json.loads(line)["score"] for line in done.stdout.splitlines()], " ".join(done.stderr.split())


def test_build_bank_says_what_it_certified_or_why_not(tiny_model: Path, good_parts: Path, tmp_path: Path) -> None:
    bank = tmp_path / "bank.safetensors"
    done = edge_uad("build-bank", good_parts, "--model", tiny_model, "--out", bank, "--precision", "bf16", "--json")
    certified = [one["precision"] for one in json.loads(done.stdout)["precisions"]]
    assert certified == ["bf16"] or "bf16 is not used: it takes" in " ".join(done.stderr.split())


def test_a_certified_bank_is_judged_in_its_precision_unless_fp32_is_wanted(
    certified_bank: Path, tiny_model: Path, scratched_parts: Path
) -> None:
    lowered, said = inspected(certified_bank, tiny_model, scratched_parts)
    assert "; bf16;" in said
    exact, said = inspected(certified_bank, tiny_model, scratched_parts, "--precision", "fp32")
    assert "; fp32;" in said
    assert lowered != exact
    assert lowered == pytest.approx(exact, rel=0.1)


def test_a_processor_without_it_judges_in_fp32_and_says_so(
    certified_bank: Path, tiny_model: Path, scratched_parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact, _ = inspected(certified_bank, tiny_model, scratched_parts, "--precision", "fp32")
    monkeypatch.setenv(HIDDEN_VARIABLE, "bf16")
    fallen_back, said = inspected(certified_bank, tiny_model, scratched_parts)
    assert "judged in fp32: this processor has no bf16, which bf16 needs" in said
    assert fallen_back == exact
    asked = ("inspect", scratched_parts, "--bank", certified_bank, "--model", tiny_model, "--precision", "bf16")
    refused = edge_uad(*asked, expect=3)
    assert refused.stderr.count("\n") == 1
    assert "this processor has no bf16, which bf16 needs; use --precision auto or fp32" in refused.stderr


def test_the_daemon_says_in_its_log_what_it_judges_in(
    certified_bank: Path, tiny_model: Path, good_parts: Path, tmp_path: Path
) -> None:
    asked = ("--source", good_parts, "--bank", certified_bank, "--model", tiny_model)
    served: subprocess.CompletedProcess[str] = edge_uad("serve", *asked, "--publish", f"ipc://{tmp_path}/v")
    assert f"bank {certified_bank} is judged in bf16, for which it is certified" in served.stderr


def test_a_bank_without_a_certificate_is_not_judged_in_a_lower_precision(
    tiny_bank: Path, tiny_model: Path, scratched_parts: Path
) -> None:
    asked = ("inspect", scratched_parts, "--bank", tiny_bank, "--model", tiny_model, "--precision", "int8")
    assert "is not certified for int8; rerun edge-uad build-bank" in edge_uad(*asked, expect=3).stderr
