"""``edge-uad certify``: whether a lower precision gives the verdicts of fp32, measured on real images."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_uad.cli.console import TerminalProgress, console
from edge_uad.cli.options import (
    BpmThresholdOption,
    FalseAlarmRateOption,
    JsonOption,
    ProviderOption,
    RoiOption,
    ThreadsOption,
    parse_roi,
)
from edge_uad.errors import ModelError

if TYPE_CHECKING:
    from edge_uad.records import ParityCertificate


def certify(
    model: Annotated[Path, typer.Argument(help="Model file of a lower precision; its card gets the certificate.")],
    *,
    against: Annotated[Path, typer.Option("--against", help="The fp32 model of the same export options.")],
    good: Annotated[str, typer.Option("--good", help="Good parts, a folder or glob: both banks are built from them.")],
    test: Annotated[
        str | None,
        typer.Option(
            "--test", help="More parts, never in a bank; good ones in folders called good.", show_default="none"
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Where the certified ONNX file goes.", show_default="in its place")
    ] = None,
    bpm_threshold: BpmThresholdOption = None,
    roi: RoiOption = None,
    false_alarm_rate: FalseAlarmRateOption = 0.01,
    provider: ProviderOption = "cpu",
    threads: ThreadsOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Compare a lower precision with fp32, verdict by verdict, and put the certificate into its card.

    The daemon runs a lower precision with a certificate that holds, on the provider that it was made with.
    The file changes by it, and so does its model id: build the bank afterwards.

    Example: [bold]edge-uad certify fp16.onnx --against fp32.onnx --good parts/ --test test/[/bold]
    """
    from bank_tools.bank.certify import CertificationImages, certificate_of, check_pair, judge
    from bank_tools.bank.embeddings import scratch_folder
    from edge_uad.inference.backbones import open_backbone
    from edge_uad.inference.backbones.certificate import runtime_of, shortfalls
    from edge_uad.runtime.backbones import load_backbone
    from edge_uad.sources.folder import image_files
    from export.to_onnx import write_certificate

    images = CertificationImages(
        good=image_files(good),
        test=() if test is None else image_files(test),
        bpm_threshold=bpm_threshold,
        roi=parse_roi(roi),
        false_alarm_rate=false_alarm_rate,
    )
    # not by load_backbone, which demands what is made here
    lowered = open_backbone(model, provider=provider, threads=threads)
    reference = load_backbone(against, threads=threads)
    check_pair(reference.card, lowered.card)
    progress = TerminalProgress()
    target = out or model
    folder = scratch_folder(target.parent)
    expected = judge(reference, images, progress, folder=folder)
    same_mask = replace(images, bpm_threshold=expected.bpm_threshold)
    certificate = certificate_of(
        expected,
        judge(lowered, same_mask, progress, folder=folder),
        images,
        reference_model_id=reference.card.model_id,
        runtime=runtime_of(model, provider),
    )
    beyond = shortfalls(certificate)
    if not beyond:
        write_certificate(model, lowered.card, certificate, target)
    _print_certificate(certificate, as_json=as_json)
    if beyond:
        raise ModelError(
            f"model {model} was not certified: {', '.join(beyond)}; use the fp32 model {against}, or certify with "
            "more good parts"
        )
    if not as_json:
        console.print(f"{target}: certified", markup=False, highlight=False)


def _print_certificate(certificate: "ParityCertificate", *, as_json: bool) -> None:
    import dataclasses

    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(certificate)))
        return
    rows = [
        ("images", f"{certificate.n_good} good for the banks, {certificate.n_test} more"),
        ("verdicts", f"{certificate.flips} of {certificate.n_judged} differ from fp32"),
        (
            "scores",
            f"differ by {certificate.p99_score_difference:.4f} (99th percentile), "
            f"{certificate.largest_score_difference:.4f} at most; the threshold is {certificate.threshold:.4f}",
        ),
        ("AUROC", f"{_shown(certificate.auroc)}, fp32 {_shown(certificate.auroc_reference)}"),
    ]
    for label, value in rows:
        console.print(f"{label:<10} {value}", markup=False, highlight=False)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
