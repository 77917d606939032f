"""A precision lower than fp32 runs only with a certificate that its verdicts are those of fp32."""

import math
import re
from pathlib import Path

from edge_uad.errors import ModelError
from edge_uad.records import ModelCard, ParityCertificate, ParityTolerance

REFERENCE_PRECISION = "fp32"
TOLERANCE = ParityTolerance(flip_ratio=0.02, auroc_loss=0.005, score_ratio=0.25)
"""What a daemon accepts; a certificate that allowed more is held to this all the same."""
FEWEST_IMAGES = 10
"""Fewer judged images show nothing about verdicts."""
MOST_IMAGES = 10**9
MOST_CHARS = 200
"""Of a text in it; the longest is a time or a version."""
SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


def runtime_of(model: Path, provider: str) -> str:
    """What runs a model file: the provider, or ``engine``, whose accelerator is its own."""
    return "engine" if model.suffix == ".engine" else provider


def require_certificate(card: ModelCard, model: Path, *, provider: str) -> None:
    """Refuse a lower precision that is not known to give the verdicts of fp32.

    Args:
        card: of the model.
        model: its file, for the sentence and its kind.
        provider: what is to run it.

    Raises:
        ModelError: the certificate is missing, of another runtime, or beyond tolerance.
    """
    if card.precision == REFERENCE_PRECISION:
        return
    remedy = f"run edge-uad certify {model} --against FP32_MODEL --good FOLDER"
    certificate = card.certificate
    if certificate is None:
        raise ModelError(f"model {model} is {card.precision} and carries no parity certificate; {remedy}")
    runtime = runtime_of(model, provider)
    if certificate.runtime != runtime:
        raise ModelError(
            f"model {model} is {card.precision} and certified for {certificate.runtime}, {runtime} is to run it; "
            f"{remedy} --provider {provider}"
        )
    if beyond := shortfalls(certificate):
        raise ModelError(
            f"model {model} is {card.precision} and its parity certificate is beyond tolerance: "
            f"{', '.join(beyond)}; use the fp32 model {certificate.reference_model_id[:12]}"
        )


def is_sound(certificate: ParityCertificate) -> bool:
    """Whether its values can be those of a comparison, and its texts be shown; one that is not comes of damage."""
    counts = (certificate.n_good, certificate.n_test, certificate.n_judged)
    sizes = (certificate.threshold, certificate.largest_score_difference, certificate.p99_score_difference)
    aurocs = (certificate.auroc_reference, certificate.auroc)
    return (
        all(0 <= count <= MOST_IMAGES for count in counts)
        and 0 <= certificate.flips <= certificate.n_judged
        and all(math.isfinite(size) and size >= 0 for size in sizes)
        and all(auroc is None or 0 <= auroc <= 1 for auroc in aurocs)
        and all(map(SHA256.fullmatch, (certificate.reference_model_id, certificate.images_digest)))
        and all(map(is_short_line, (certificate.runtime, certificate.made_at, certificate.made_by)))
    )


def is_short_line(text: str) -> bool:
    """Whether a text read from a file can be shown in a sentence."""
    return text.isprintable() and len(text) <= MOST_CHARS


def shortfalls(certificate: ParityCertificate) -> list[str]:
    """What a certificate shows that neither the tolerance it names nor the daemon's own allows; empty if nothing."""
    stated, flip_ratio = certificate.tolerance, certificate.flips / max(certificate.n_judged, 1)
    allowed_flips = min(stated.flip_ratio, TOLERANCE.flip_ratio)
    allowed_loss = min(stated.auroc_loss, TOLERANCE.auroc_loss)
    allowed_difference = min(stated.score_ratio, TOLERANCE.score_ratio) * certificate.threshold
    beyond = []
    if certificate.n_judged < FEWEST_IMAGES:
        beyond.append(f"{certificate.n_judged} images were judged, at least {FEWEST_IMAGES} are needed")
    # written so that NaN is beyond tolerance too
    if not flip_ratio <= allowed_flips:
        beyond.append(
            f"{certificate.flips} of {certificate.n_judged} verdicts differ from fp32, {allowed_flips:.1%} may"
        )
    if not _auroc_loss(certificate) <= allowed_loss:
        beyond.append(f"the image AUROC falls by {_auroc_loss(certificate):.4f}, {allowed_loss:g} is allowed")
    if not certificate.p99_score_difference <= allowed_difference:
        beyond.append(
            f"scores differ by {certificate.p99_score_difference:.4f} (99th percentile), "
            f"{allowed_difference:.4f} is allowed at a threshold of {certificate.threshold:.4f}"
        )
    return beyond


def _auroc_loss(certificate: ParityCertificate) -> float:
    if certificate.auroc is None or certificate.auroc_reference is None:
        return 0.0
    return certificate.auroc_reference - certificate.auroc
