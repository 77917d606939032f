"""A lower precision runs by its certificate alone: what holds, what does not, and what the sentence says."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bank_tools.bank.certify import CertificationImages, PrecisionVerdicts, certificate_of, check_pair
from edge_uad.errors import ModelError, UsageError
from edge_uad.inference.backbones.card import card_from_json, card_to_json
from edge_uad.inference.backbones.certificate import TOLERANCE, require_certificate, shortfalls
from edge_uad.records import Decision, ModelCard, ParityCertificate, ParityTolerance

MODEL = Path("fp16.onnx")
NORMAL, ANOMALOUS, INVALID = Decision.NORMAL, Decision.ANOMALOUS, Decision.INVALID
GOOD = ParityCertificate(
    reference_model_id="ab" * 32,
    runtime="cpu",
    n_good=100,
    n_test=100,
    images_digest="cd" * 32,
    threshold=0.4,
    n_judged=200,
    flips=4,
    auroc_reference=0.98,
    auroc=0.98,
    largest_score_difference=0.3,
    p99_score_difference=0.1,
    tolerance=TOLERANCE,
    made_at="2026-01-01T00:00:00+00:00",
    made_by="edge-uad 0",
)
FP32 = ModelCard(
    model_id="ab" * 32,
    backbone="b",
    input_hw=(28, 42),
    grid_hw=(2, 3),
    patch_px=14,
    dim=8,
    mean=(0.5, 0.5, 0.5),
    std=(0.2, 0.2, 0.2),
    layers=(0, 1),
    attention_layer=1,
    precision="fp32",
    licence="Apache-2.0",
    weights_sha256="0" * 64,
)
FP16 = replace(FP32, precision="fp16", certificate=GOOD)


def test_fp32_needs_no_certificate() -> None:
    require_certificate(FP32, MODEL, provider="cpu")


def test_a_lower_precision_runs_with_a_certificate_that_holds() -> None:
    require_certificate(FP16, MODEL, provider="cpu")


def refusal(card: ModelCard, *, model: Path = MODEL, provider: str = "cpu") -> str:
    with pytest.raises(ModelError) as caught:
        require_certificate(card, model, provider=provider)
    assert caught.value.exit_code == 3
    assert str(model) in str(caught.value)
    return str(caught.value)


def test_without_one_the_remedy_is_named() -> None:
    told = refusal(replace(FP16, certificate=None))
    assert "is fp16 and carries no parity certificate; run edge-uad certify fp16.onnx --against" in told


def test_a_certificate_holds_for_the_runtime_that_it_was_made_with() -> None:
    told = refusal(FP16, provider="openvino")
    assert "certified for cpu, openvino is to run it" in told
    assert "--provider openvino" in told


def test_an_engine_is_its_own_runtime_whatever_the_provider() -> None:
    engine = Path("m.engine")
    require_certificate(replace(FP16, certificate=replace(GOOD, runtime="engine")), engine, provider="cpu")
    assert "certified for cpu, engine is to run it" in refusal(FP16, model=engine)


@pytest.mark.parametrize(
    ("certificate", "told"),
    [
        (replace(GOOD, flips=5), "5 of 200 verdicts differ from fp32, 2.0% may"),
        (replace(GOOD, auroc=0.97), "the image AUROC falls by 0.0100, 0.005 is allowed"),
        (replace(GOOD, auroc=float("nan")), "the image AUROC falls by nan"),
        (replace(GOOD, p99_score_difference=0.11), "scores differ by 0.1100"),
        (replace(GOOD, p99_score_difference=float("nan")), "scores differ by nan"),
        (replace(GOOD, n_judged=9, flips=0), "9 images were judged, at least 10 are needed"),
        (replace(GOOD, n_judged=0, flips=0), "0 images were judged"),
    ],
)
def test_a_certificate_beyond_tolerance_is_refused_with_the_figure(certificate: ParityCertificate, told: str) -> None:
    assert told in refusal(replace(FP16, certificate=certificate))


def test_a_gain_is_no_loss_and_no_anomalous_images_are_none() -> None:
    assert not shortfalls(replace(GOOD, auroc=0.99))
    assert not shortfalls(replace(GOOD, auroc=None, auroc_reference=None))


def test_a_stricter_tolerance_of_its_own_holds_and_a_wider_one_does_not() -> None:
    strict = ParityTolerance(flip_ratio=0.01, auroc_loss=0.005, score_ratio=0.25)
    wide = ParityTolerance(flip_ratio=1.0, auroc_loss=1.0, score_ratio=100.0)
    assert shortfalls(replace(GOOD, tolerance=strict))
    assert shortfalls(replace(GOOD, tolerance=wide, flips=5))


def test_a_card_keeps_its_certificate_and_an_fp32_card_has_no_such_key() -> None:
    assert card_from_json(card_to_json(FP16), FP16.model_id) == FP16
    assert "certificate" not in card_to_json(FP32)
    assert card_from_json(card_to_json(FP32), FP32.model_id) == FP32


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"flips":4', '"flips":"4"'),
        ('"flips":4,', ""),
        ('"flips":4', f'"flips":{10**400}'),
        ('"flips":4', '"flips":-4'),
        ('"runtime":"cpu"', '"runtime":7'),
        ('"runtime":"cpu"', r'"runtime":"\n"'),
    ],
)
def test_a_broken_certificate_makes_the_card_unusable(old: str, new: str) -> None:
    text = card_to_json(FP16)
    assert old in text
    with pytest.raises(ModelError, match="certificate"):
        card_from_json(text.replace(old, new), FP16.model_id)


def images_of(tmp_path: Path, n_good: int, *test: str) -> CertificationImages:
    files = [tmp_path / "good" / f"{index}.png" for index in range(n_good)] + [tmp_path / name for name in test]
    for index, file in enumerate(files):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes([index]))
    return CertificationImages(good=files[:n_good], test=files[n_good:])


def compared(
    reference: PrecisionVerdicts, lowered: PrecisionVerdicts, images: CertificationImages
) -> ParityCertificate:
    return certificate_of(reference, lowered, images, reference_model_id="ab" * 32, runtime="cpu")


def test_flips_differences_and_auroc_by_hand(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="the [evaluate] extra is not installed")
    images = images_of(tmp_path, 2, "good/a.png", "crack/b.png", "crack/c.png")
    before = PrecisionVerdicts(0.5, (0.1, 0.2, 0.3, 0.9, None), (NORMAL, NORMAL, NORMAL, ANOMALOUS, INVALID), 0.1)
    after = PrecisionVerdicts(0.4, (0.1, 0.3, 0.45, 0.4, None), (NORMAL, NORMAL, ANOMALOUS, NORMAL, INVALID), 0.1)
    found = compared(before, after, images)
    assert (found.n_good, found.n_test, found.n_judged, found.flips) == (2, 3, 4, 2)
    assert found.largest_score_difference == pytest.approx(0.5)
    assert found.threshold == 0.5
    assert (found.auroc_reference, found.auroc) == (1.0, 0.0)


def test_an_image_that_only_one_of_them_can_judge_is_a_flip(tmp_path: Path) -> None:
    images = images_of(tmp_path, 2)
    found = compared(
        PrecisionVerdicts(0.5, (0.1, 0.2), (NORMAL, NORMAL), 0.1),
        PrecisionVerdicts(0.5, (0.1, None), (NORMAL, INVALID), 0.1),
        images,
    )
    assert (found.n_judged, found.flips, found.largest_score_difference) == (2, 1, 0.0)
    assert found.auroc is None


@given(st.lists(st.floats(0, 4), min_size=1, max_size=20))
def test_a_model_compared_with_itself_differs_in_nothing(scores: list[float]) -> None:
    judged = PrecisionVerdicts(1.0, tuple(scores), tuple(ANOMALOUS if score > 1 else NORMAL for score in scores), 0.1)
    images = CertificationImages(good=[Path(__file__)] * len(scores))
    found = compared(judged, judged, images)
    assert (found.flips, found.n_judged, found.largest_score_difference) == (0, len(scores), 0.0)


def test_the_digest_is_of_the_files_in_their_order(tmp_path: Path) -> None:
    images = images_of(tmp_path, 3)
    turned = replace(images, good=list(reversed(images.good)))
    assert images.digest() == replace(images).digest() != turned.digest()


@pytest.mark.parametrize(
    ("reference", "lowered", "told"),
    [
        (FP16, FP16, "--against is a model of precision fp16"),
        (FP32, FP32, "is fp32 and needs no certificate"),
        (replace(FP32, layers=(1,)), FP16, "the two models differ in layers"),
        (replace(FP32, weights_sha256="1" * 64), FP16, "the two models differ in weights_sha256"),
    ],
)
def test_models_that_are_no_pair_are_refused(reference: ModelCard, lowered: ModelCard, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        check_pair(reference, lowered)
