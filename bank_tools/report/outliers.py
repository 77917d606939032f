"""Good images that score far above the others: each next to its heat, and what they do to the threshold."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from bank_tools.bank.build import BuiltBank, ScoredImage
from bank_tools.bank.calibrate import OutlierCost
from bank_tools.bank.good_images import name_of, pixel_digest
from bank_tools.evaluation.step_cache import write_result
from bank_tools.report.charts import Histogram
from bank_tools.report.page import Charts, Facts, Gallery, Picture, Section, page
from bank_tools.report.pictures import jpeg_of
from edge_uad.inference.overlay import at_most, overlay, overlay_anchor
from edge_uad.inference.preprocess import Preprocessor
from edge_uad.inference.scoring import decide
from edge_uad.records import BankManifest, Frame, UInt8, UnreadableFrame

PICTURE_PX = 480


def write_outliers(
    built: BuiltBank, frames: Iterable[Frame | UnreadableFrame], preprocessor: Preprocessor, path: Path
) -> None:
    """Write the page.

    Args:
        built: the bank.
        frames: the good images, read again; no further than the last one shown.
        preprocessor: of the bank's images.
        path: of the page; one that is there is replaced.

    Raises:
        UsageError: it cannot be written.
    """
    manifest = built.bank.manifest
    pictures = _read_again(built.outliers, frames)
    gallery = [
        picture
        for one in built.outliers
        if one.digest in pictures
        for picture in _side_by_side(one, pictures[one.digest], manifest, preprocessor)
    ]
    n_gone = sum(one.digest not in pictures for one in built.outliers)
    note = "Each picture is followed by the same one with its heat, as a verdict of this bank draws it."
    if n_gone:
        note += f" {n_gone} of {len(built.outliers)} could not be read again."
    groups = {"good images in the bank": built.scores.tolist()}
    if manifest.n_excluded:
        groups["excluded"] = [one.score for one in built.outliers]
    sections = [
        Section("What they do to the threshold", [Facts(_facts(built, built.outlier_cost))]),
        Section("Images that score far above the others", [Gallery(gallery)], note),
        Section("Scores", [Charts([Histogram(scores=groups, threshold=manifest.threshold)])]),
    ]
    lead = f"{manifest.n_images} good images, {len(built.outliers)} far above the others (beyond Q3 + 3·IQR)"
    write_result(path, page("Good images that stand out", lead, sections))


def _facts(built: BuiltBank, cost: OutlierCost | None) -> dict[str, object]:
    manifest = built.bank.manifest
    facts: dict[str, object] = {
        "threshold of this bank": f"{manifest.threshold:.6f}",
        "asked false-alarm rate": f"{manifest.false_alarm_rate:g}",
        "excluded": manifest.n_excluded,
    }
    if cost is not None:
        others = f"of {cost.n_others} other good images"
        facts |= {
            "threshold with them": f"{cost.threshold_with:.6f}, {cost.others_above_with} {others} above it",
            "threshold without them": f"{cost.threshold_without:.6f}, {cost.others_above_without} {others} above it",
        }
    return facts | {"bank": manifest.bank_id, "model": manifest.model_id}


def _read_again(wanted: Sequence[ScoredImage], frames: Iterable[Frame | UnreadableFrame]) -> dict[str, UInt8]:
    """The pictures by the digest of their pixels; one that has changed since is not among them."""
    names = {one.name for one in wanted}
    missing = {one.digest for one in wanted}
    found: dict[str, UInt8] = {}
    for frame in frames if missing else ():
        if isinstance(frame, UnreadableFrame) or name_of(frame) not in names:
            continue
        digest = pixel_digest(frame.image)
        if digest in missing:
            found[digest] = frame.image
            missing.discard(digest)
        if not missing:
            break
    return found


def _side_by_side(
    one: ScoredImage, image: UInt8, manifest: BankManifest, preprocessor: Preprocessor
) -> tuple[Picture, Picture]:
    full_hw = (image.shape[0], image.shape[1])
    picture = at_most(image, PICTURE_PX)
    placement = preprocessor.placement(full_hw).on_scaled(full_hw, (picture.shape[0], picture.shape[1]))
    drawn = overlay(picture, one.heat, threshold=overlay_anchor(manifest), placement=placement)
    decision = decide(one.score, manifest.threshold).value
    ratio = one.score / manifest.threshold if manifest.threshold else float("inf")
    caption = f"{one.name}: {one.score:.4f}, {ratio:.2f} of the threshold"
    return (
        Picture(jpeg_of(picture, longest_px=PICTURE_PX), decision, caption),
        Picture(jpeg_of(drawn, longest_px=PICTURE_PX), decision, "its heat"),
    )
