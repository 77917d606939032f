"""A lower precision is certified by what it does to a bank's own pictures, or refused with the reason."""

import dataclasses
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("openvino", reason="the [openvino] extra is not installed")

from bank_tools.bank import precision_trial
from bank_tools.bank.build import BuiltBank, build_bank
from bank_tools.bank.good_images import embed_all
from bank_tools.bank.precision_trial import (
    MOST_IMAGES,
    PrecisionTrial,
    possible_precisions,
    prepare_trial,
    would_gain_from_openvino,
)
from bank_tools.bank.recipe import embedder_for, recipe_for
from bank_tools.spread import Spread, one_by_one
from edge_uad.errors import MissingExtraError, UsageError
from edge_uad.inference.backbones import processor
from edge_uad.inference.backbones.certificate import shortfalls
from edge_uad.progress import SilentProgress
from edge_uad.runtime.backbones import load_backbone
from edge_uad.sources.folder import FolderSource
from edge_uad.sources.recorded import frames_of

FEATURES = "avx512_vnni avx512_bf16"


@pytest.fixture(autouse=True)
def _every_feature(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO runs both precisions on every processor; only what they win differs."""
    monkeypatch.delenv(processor.HIDDEN_VARIABLE, raising=False)
    monkeypatch.setattr(processor, "cpu_info", lambda: {"flags": FEATURES})
    monkeypatch.setattr(precision_trial, "WORTH_RATIO", float("inf"))  # so small a model may be no faster


def elsewhere(work: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """As if each item were done by another process. Implements Spread."""
    for item in items:
        found = pickle.loads(pickle.dumps(work))(item)  # noqa: S301  # its own
        yield list(found) if isinstance(found, Iterator) else found


def built(
    model: Path, good: Path, *, exclude_outliers: bool = False, spreads: Sequence[Spread] = (one_by_one,)
) -> list[BuiltBank]:
    """The bank of the same embeddings, made once with each spread."""
    files = sorted(good.glob("*.png"))
    backbone = load_backbone(model, threads=1)
    recipe = recipe_for(backbone.card)
    embedder = embedder_for(backbone, recipe)
    trial, slow = prepare_trial(
        model, embedder, recipe, ("int8", "bf16"), total=len(files), workers=2, progress=SilentProgress()
    )
    assert slow == ()
    images = embed_all(
        frames_of(FolderSource("line", files)), embedder, len(files), SilentProgress(), workers=2, trial=trial
    )
    how = {"recipe": recipe, "embedder": embedder, "progress": SilentProgress(), "exclude_outliers": exclude_outliers}
    return [build_bank(images, spread=spread, **how) for spread in spreads]  # type: ignore[arg-type]


def certified(bank: BuiltBank) -> list[object]:
    precisions = bank.bank.manifest.precisions
    return [(one.precision, dataclasses.replace(one.certificate, made_at="")) for one in precisions]


def test_folds_that_are_carried_out_elsewhere_certify_the_same(tiny_model: Path, good_parts: Path) -> None:
    here, there = built(tiny_model, good_parts, spreads=(one_by_one, elsewhere))
    assert certified(here)
    assert certified(there) == certified(here)
    np.testing.assert_array_equal(there.scores, here.scores)


def test_what_keeps_the_verdicts_is_certified_in_the_bank(tiny_model: Path, good_parts: Path) -> None:
    [bank] = built(tiny_model, good_parts)
    manifest = bank.bank.manifest
    tried = {one.precision for one in manifest.precisions} | {one.precision for one in bank.refused_precisions}
    assert tried == {"int8", "bf16"}
    assert manifest.precisions
    for one in manifest.precisions:
        certificate = one.certificate
        assert shortfalls(certificate) == []
        assert (certificate.n_good, certificate.n_test, certificate.n_judged) == (24, 24, 48)
        assert certificate.threshold == manifest.threshold
        assert certificate.reference_model_id == manifest.model_id
        assert 0 < certificate.p99_score_difference <= certificate.largest_score_difference
        assert one.features[0] in ("int8_dot", "bf16")
    times_ms = [one.embedding_ms for one in manifest.precisions]
    assert times_ms == sorted(times_ms)


def test_the_bank_itself_is_that_of_fp32_alone(tiny_model: Path, good_parts: Path) -> None:
    files = sorted(good_parts.glob("*.png"))
    backbone = load_backbone(tiny_model, threads=1)
    recipe = recipe_for(backbone.card)
    embedder = embedder_for(backbone, recipe)
    images = embed_all(frames_of(FolderSource("line", files)), embedder, len(files), SilentProgress())
    alone = build_bank(images, recipe=recipe, embedder=embedder, progress=SilentProgress()).bank
    tried = built(tiny_model, good_parts)[0].bank
    np.testing.assert_array_equal(tried.patches, alone.patches)
    np.testing.assert_array_equal(tried.calibration, alone.calibration)
    assert (tried.manifest.threshold, alone.manifest.precisions) == (alone.manifest.threshold, ())


def test_one_whose_verdicts_differ_is_refused_with_the_reason(
    tiny_model: Path, good_parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "edge_uad.inference.backbones.openvino.rounded",
        lambda weights: (np.zeros(weights.shape, np.int8), np.ones((len(weights), 1), np.float32)),
    )
    [bank] = built(tiny_model, good_parts)
    (refused,) = [one for one in bank.refused_precisions if one.precision == "int8"]
    assert "differ" in refused.reason
    assert [one.precision for one in bank.bank.manifest.precisions] == ["bf16"]


def test_one_that_wins_no_time_is_not_tried(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision_trial, "WORTH_RATIO", 0.0)
    backbone = load_backbone(tiny_model, threads=1)
    recipe = recipe_for(backbone.card)
    trial, slow = prepare_trial(
        tiny_model, embedder_for(backbone, recipe), recipe, ("bf16",), total=3, workers=1, progress=SilentProgress()
    )
    assert trial is None
    assert [one.precision for one in slow] == ["bf16"]
    assert "where fp32 takes" in slow[0].reason


@pytest.mark.parametrize(("total", "expected"), [(7, 7), (50, 50), (51, 26), (1000, 50), (None, 50)])
def test_a_bounded_number_of_images_from_first_to_last_is_tried(
    tiny_model: Path, total: int | None, expected: int
) -> None:
    backbone = load_backbone(tiny_model, threads=1)
    recipe = recipe_for(backbone.card)
    trial = PrecisionTrial([], embedder_for(backbone, recipe), recipe, total=total, folder=None)
    chosen = [number for number in range(total or 1000) if trial.tries(number)]
    assert len(chosen) == expected <= MOST_IMAGES
    assert total is None or chosen[-1] >= total // 2


def test_what_the_processor_the_provider_or_the_model_cannot_do_is_not_tried(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = load_backbone(tiny_model, threads=1).card
    assert possible_precisions(card, "auto", "cpu") == ("int8", "bf16")
    assert possible_precisions(card, "bf16", "openvino") == ("bf16",)
    assert possible_precisions(card, "fp32", "cpu") == possible_precisions(card, "auto", "cuda") == ()
    assert possible_precisions(dataclasses.replace(card, precision="fp16"), "auto", "cpu") == ()
    monkeypatch.setattr(processor, "cpu_info", lambda: {"flags": "avx2"})
    assert possible_precisions(card, "auto", "cpu") == ()


def test_one_that_is_wanted_by_name_and_cannot_be_is_refused(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = load_backbone(tiny_model, threads=1).card
    with pytest.raises(UsageError, match="--precision bf16 is for an fp32 model, this one is fp16"):
        possible_precisions(dataclasses.replace(card, precision="fp16"), "bf16", "cpu")
    with pytest.raises(UsageError, match="--precision bf16 is for the processor, the provider is cuda"):
        possible_precisions(card, "bf16", "cuda")
    monkeypatch.setattr(processor, "cpu_info", lambda: {"flags": "avx2"})
    with pytest.raises(UsageError, match="this processor has nothing for --precision bf16; use --precision auto"):
        possible_precisions(card, "bf16", "cpu")


def test_without_openvino_it_is_said_what_would_be_gained(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = load_backbone(tiny_model, threads=1).card
    assert not would_gain_from_openvino(card, "auto", "cpu")
    monkeypatch.setattr(precision_trial, "openvino_is_installed", lambda: False)
    assert possible_precisions(card, "auto", "cpu") == ()
    assert would_gain_from_openvino(card, "auto", "cpu")
    assert not would_gain_from_openvino(card, "fp32", "cpu")
    with pytest.raises(MissingExtraError, match=r"--precision bf16 needs the \[openvino\] extra"):
        possible_precisions(card, "bf16", "cpu")
    monkeypatch.setattr(processor, "cpu_info", lambda: {"flags": "avx2"})
    assert not would_gain_from_openvino(card, "auto", "cpu")
