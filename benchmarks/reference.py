"""The published implementation's steps, in plain eager torch, against edge-uad on the same frames in the same run.

    python -m benchmarks.reference

Written anew from the paper and what is known of its code: all twelve blocks with their whole attention maps, every
patch searched in a faiss IndexFlatL2 of 5 000, the heatmap by interpolation and a Gaussian filter. ViT-S/14 has
DINOv2's weights; of the others only the layout is taken, with random weights: times do not depend on them.
"""

import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from PIL import Image
from rich.console import Console
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn import functional

from bank_tools.bank.precision_trial import possible_precisions
from bank_tools.bank.recipe import recipe_for
from bank_tools.bench.clock import Timing, timed_call
from bank_tools.bench.frames import bank_of, bank_of_size, decoded, packaged_frames
from bank_tools.bench.operating_points import judge_of
from benchmarks.report import Report, Table, options_of, say
from edge_uad.inference.bank import PatchBank
from edge_uad.inference.inspector import Inspector
from edge_uad.interfaces import Backbone
from edge_uad.progress import SilentProgress
from edge_uad.records import Float32, Geometry, UInt8, Verdict
from edge_uad.runtime.assemble import make_embedder
from edge_uad.runtime.backbones import load_backbone
from edge_uad.runtime.in_order import in_order
from edge_uad.runtime.workers import available_cores
from export.architecture import VitSpec, VitWeights
from export.default import provide_default_model
from export.fetch import fetch_weights, load_named
from export.request import ExportRequest
from export.to_onnx import export_onnx
from export.variants import provide_variant
from export.vit import VisionTransformer, torch_vit
from export.weights import IMAGENET_MEAN, IMAGENET_STD, PAPER_ATTENTION_LAYER, PAPER_LAYERS

N_BANK = 5000
N_LEARNED = 8
INPUT_PX, RESIZED_PX = 224, 256
GOALS = {"bf16": 0.3, "int8": 0.2}
FINE_GOAL, DINO_GOAL = 2.5, 0.15
FINE_FRAMES = 16
FINE_COLUMNS = ("", "input px", "precision", "ms", "over 224 px in fp32", "over AnomalyDINO")
DINO_PX, DINO_IMAGES = 252, 200
FINE_NOTE = (
    "The default's model and recipe, a bank of 10 000 patches, from a frame in memory to score and heatmap. "
    "*AnomalyDINO* are its steps as anomalib takes them, in eager torch with the same weights: every patch of "
    f"{DINO_IMAGES} good pictures is kept and searched."
)
FRAMES = {"ViT-S/14": 16, "ViT-S/16": 16, "ViT-S/8": 6, "ViT-B/8": 4}


@dataclass
class Layout:
    """One backbone, and how to make it; twice, because each export takes one over."""

    name: str
    make: Callable[[], VisionTransformer]
    weights: str


class Published:
    """The published steps one by one, without any shortcut that the published code does not take."""

    def __init__(self, vit: VisionTransformer, bank: PatchBank) -> None:
        patch_px = vit.spec.patch_px
        self.grid_hw = (INPUT_PX // patch_px, INPUT_PX // patch_px)
        vit.fix_grid(self.grid_hw)
        self.vit = vit.eval().requires_grad_(False)
        self.kernel = bank.manifest.bpm_kernel
        self.index = faiss.IndexFlatL2(bank.patches.shape[1])
        self.index.add(bank.patches)

    @torch.no_grad()
    def __call__(self, image: UInt8) -> tuple[float, Float32]:
        """Image score and heatmap."""
        tokens, attention = self.features(self.pixels(image))
        smoothed = functional.avg_pool2d(attention.reshape(1, *self.grid_hw), self.kernel, 1, self.kernel // 2)
        mask = (smoothed / smoothed.max() > 0.1).flatten()
        squared, _ = self.index.search(functional.normalize(tokens, dim=-1).numpy(), 1)
        masked = torch.from_numpy(squared[:, 0]) * mask
        n_top = max(1, round(0.05 * len(masked)))
        score = float(masked.topk(n_top).values.mean())
        heat = functional.interpolate(masked.reshape(1, 1, *self.grid_hw), size=INPUT_PX, mode="bilinear")
        return score, gaussian_filter(heat[0, 0].numpy(), sigma=4)

    def pixels(self, image: UInt8) -> Tensor:
        """Shorter side to 256, centre crop, normalised; (1, 3, 224, 224)."""
        picture = Image.fromarray(image)
        ratio = RESIZED_PX / min(picture.size)
        picture = picture.resize((int(picture.width * ratio), int(picture.height * ratio)), Image.Resampling.BILINEAR)
        left, top = round((picture.width - INPUT_PX) / 2), round((picture.height - INPUT_PX) / 2)
        cropped = np.asarray(picture.crop((left, top, left + INPUT_PX, top + INPUT_PX)))
        pixels = torch.from_numpy(cropped.copy()).permute(2, 0, 1).float() / 255
        return ((pixels - torch.tensor(IMAGENET_MEAN)[:, None, None]) / torch.tensor(IMAGENET_STD)[:, None, None])[None]

    def features(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Every block with its whole attention map; mean tokens (N, D) and CLS attention (N,)."""
        x = self.vit.embed(pixels)
        kept: list[Tensor] = []
        maps: list[Tensor] = []
        for block in self.vit.blocks:
            q, k, v = block.attn.project(block.norm1(x), self.vit.turns)
            attention = ((q @ k.transpose(-2, -1)) * block.attn.scale).softmax(dim=-1)
            gathered = block.attn.proj((attention @ v).transpose(1, 2).flatten(2))
            x = x + block.ls1(gathered)
            x = x + block.ls2(block.mlp(block.norm2(x)))
            kept.append(x)
            maps.append(attention)
        tokens = torch.stack([kept[layer] for layer in PAPER_LAYERS]).mean(dim=0)
        return tokens[0, 1:], maps[PAPER_ATTENTION_LAYER][0, :, 0, 1:].mean(dim=0)


def main() -> int:
    options = options_of(__doc__).parse_args()
    report = Report(
        name="reference",
        title="Compared with the published implementation",
        about=(
            f"From an RGB frame of 1280×960 px in memory to its score and heatmap, bank of {N_BANK}, in turn frame by "
            f"frame. *Published* are its steps, written anew in eager torch {torch.__version__} with "
            f"{torch.get_num_threads()} threads: all blocks, whole attention maps, every patch searched by faiss. "
            "*edge-uad* takes the whole frame to the input. *parallel* is its time per frame where frames wait and "
            "each is judged on one core. *Δ of scores* is the largest difference: of fp32, with the paper's resize and "
            "crop, to the published score (there a resized picture is rounded to 8 bits, here not); of a lower "
            "precision to fp32. "
            f"Goals are {GOALS['bf16']:g} of the published time for bf16, {GOALS['int8']:g} for int8."
        ),
    )
    goals: dict[str, list[object]] = {}
    rows = []
    for layout in layouts():
        say(f"{layout.name}: export")
        with tempfile.TemporaryDirectory() as folder:
            n = 2 if options.quick else FRAMES[layout.name]
            found, facts = compare(layout, Path(folder) / "model.onnx", n)
        rows += found
        report.facts[layout.name] = facts
        goals |= {
            f"{layout.name} in {precision}: edge-uad's time over the published implementation's": [
                facts["ratios"][precision],
                "<=",
                goal,
            ]
            for precision, goal in GOALS.items()
            if precision in facts["ratios"]
        }
    columns = ("layout", "published ms", "edge-uad in", "ms", "ratio", "parallel ms", "ratio", "score", "Δ of scores")
    report.add(Table("one frame", columns, rows))
    fine_rows, fine_facts = compare_fine(2 if options.quick else FINE_FRAMES)
    report.add(Table("the default's input, and AnomalyDINO's steps", FINE_COLUMNS, fine_rows, note=FINE_NOTE))
    report.facts["fine"] = fine_facts
    goals |= fine_facts["goals"]
    report.facts["goals"] = goals
    report.close(options)
    return 0


def layouts() -> list[Layout]:
    return [
        Layout("ViT-S/14", genuine, "DINOv2"),
        Layout("ViT-S/16", lambda: random_vit(16), "random"),
        Layout("ViT-S/8", lambda: random_vit(8), "random"),
        Layout("ViT-B/8", lambda: random_vit(8, dim=768, heads=12), "random"),
    ]


def genuine() -> VisionTransformer:
    return torch_vit(load_named("dinov2_vits14", fetch_weights("dinov2_vits14", Console(stderr=True))))


def random_vit(patch_px: int, *, dim: int = 384, heads: int = 6) -> VisionTransformer:
    torch.manual_seed(0)
    spec = VitSpec(dim=dim, heads=heads, depth=12, patch_px=patch_px, pos_grid=INPUT_PX // patch_px)
    return VisionTransformer(spec).eval().requires_grad_(False)


def compare(layout: Layout, path: Path, n: int) -> tuple[list[list[str]], dict[str, Any]]:
    """The table's rows, and the figures behind them."""
    request = ExportRequest(
        backbone=layout.name,
        input_hw=(INPUT_PX, INPUT_PX),
        layers=PAPER_LAYERS,
        attention_layer=PAPER_ATTENTION_LAYER,
        licence="",
        weights_sha256="0" * 64,
    )
    vit = layout.make()
    weights = VitWeights(vit.spec, {key: tensor.numpy() for key, tensor in vit.state_dict().items()})
    export_onnx(weights, request, path)
    backbone = load_backbone(path)
    frames = packaged_frames(N_LEARNED)
    bank = bank_of_size(bank_of(frames, backbone, SilentProgress(), geometry=Geometry.PAPER), N_BANK)
    published = Published(layout.make(), bank)
    as_paper = inspector_of(backbone, bank, Geometry.PAPER)
    precisions = ("fp32", *possible_precisions(backbone.card, "auto", "cpu"))
    alone = {one: inspector_of(load_backbone(path, precision=one), bank, Geometry.STRETCH) for one in precisions}
    cores = available_cores()
    on_one_core = {
        one: inspector_of(
            load_backbone(path, precision=one, threads=1, at_once=cores), bank, Geometry.STRETCH, search_threads=1
        )
        for one in precisions
    }
    shots = [decoded(message) for message in frames.first(n + 1)]
    published(shots[0].image)
    for inspector in (*alone.values(), *on_one_core.values()):
        inspector.inspect(shots[0])
    say(f"{layout.name}: {n} frames in turn")
    published_s: list[float] = []
    own_s: dict[str, list[float]] = {one: [] for one in precisions}
    scores: dict[str, list[float]] = {one: [] for one in ("published", "paper", *precisions)}
    for shot in shots[1:]:
        their_s, (score, _) = timed_call(lambda shot=shot: published(shot.image))
        published_s.append(their_s)
        scores["published"].append(score)
        scores["paper"].append(score_of(as_paper.inspect(shot)))
        for one, inspector in alone.items():
            seconds, verdict = timed_call(lambda shot=shot, inspector=inspector: inspector.inspect(shot))
            own_s[one].append(seconds)
            scores[one].append(score_of(verdict))
    parallel_ms = {
        one: 1000
        / n
        * timed_call(lambda inspector=inspector: list(in_order(inspector.inspect, shots[1:], workers=cores)))[0]
        for one, inspector in on_one_core.items()
    }
    theirs = Timing.of(published_s)
    ours = {one: Timing.of(seconds) for one, seconds in own_s.items()}
    differences = {one: largest_difference(scores[one], scores["fp32"]) for one in precisions if one != "fp32"} | {
        "fp32": largest_difference(scores["paper"], scores["published"])
    }
    facts: dict[str, Any] = {
        "n": n,
        "weights": layout.weights,
        "published": asdict(theirs),
        "edge_uad": {one: asdict(timing) for one, timing in ours.items()},
        "ratios": {one: timing.median_ms / theirs.median_ms for one, timing in ours.items()},
        "parallel_ms": parallel_ms,
        "largest_score_differences": differences,
    }
    rows = [
        [
            f"{layout.name}, {layout.weights}",
            f"{theirs.median_ms:.1f}",
            one,
            f"{timing.median_ms:.1f}",
            f"{timing.median_ms / theirs.median_ms:.3f}",
            f"{parallel_ms[one]:.1f}",
            f"{parallel_ms[one] / theirs.median_ms:.3f}",
            f"{np.median(scores[one]):.4f}",
            f"{differences[one]:.1e}",
        ]
        for one, timing in ours.items()
    ]
    return rows, facts


def score_of(verdict: Verdict) -> float:
    if verdict.score is None:
        raise RuntimeError(f"a frame could not be judged: {verdict.reason}")
    return verdict.score


def largest_difference(scores: Sequence[float], others: Sequence[float]) -> float:
    return float(np.abs(np.subtract(scores, others)).max())


class AnomalyDino:
    """AnomalyDINO's steps as anomalib 2.7 takes them by default, in eager torch.

    252 px, the last block's patches at unit norm, no mask, every patch of the good pictures kept, the nearest by
    cosine, the mean of the highest 1 %.
    """

    def __init__(self, vit: VisionTransformer, n_patches: int) -> None:
        self.grid_hw = (DINO_PX // vit.spec.patch_px, DINO_PX // vit.spec.patch_px)
        vit.fix_grid(self.grid_hw)
        self.vit = vit.eval().requires_grad_(False)
        torch.manual_seed(0)
        self.patches = functional.normalize(torch.randn(n_patches, vit.spec.dim), dim=-1)

    @torch.no_grad()
    def __call__(self, image: UInt8) -> float:
        """The image's score; its heatmap is made and let go."""
        picture = Image.fromarray(image).resize((DINO_PX, DINO_PX), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1).float() / 255
        pixels = (pixels - torch.tensor(IMAGENET_MEAN)[:, None, None]) / torch.tensor(IMAGENET_STD)[:, None, None]
        x = self.vit.embed(pixels[None])
        for block in self.vit.blocks:
            x = block(x, self.vit.turns)
        tokens = functional.normalize(self.vit.norm(x)[0, 1:], dim=-1)
        distances = (1 - tokens @ self.patches.T).min(dim=1).values
        heat = functional.interpolate(distances.reshape(1, 1, *self.grid_hw), size=DINO_PX, mode="bilinear")
        gaussian_filter(heat[0, 0].numpy(), sigma=4)
        return float(distances.topk(max(1, len(distances) // 100)).values.mean())


def compare_fine(n: int) -> tuple[list[list[str]], dict[str, Any]]:
    """The default model's time in each precision, over that of its 224 px in fp32, and over AnomalyDINO's steps."""
    console = Console(stderr=True)
    default = provide_default_model(console)
    card = load_backbone(default).card
    coarse = provide_variant(card, input_px=INPUT_PX, console=console)
    frames = packaged_frames(N_LEARNED)
    shots = [decoded(message) for message in frames.first(n + 1)]
    precisions = ("fp32", *possible_precisions(card, "auto", "cpu"))
    judges = {
        (size, one): judge_of(path, one, recipe_for, threads=0)
        for path, size in ((coarse, INPUT_PX), (default, card.input_hw[0]))
        for one in precisions
    }
    dino = AnomalyDino(genuine(), DINO_IMAGES * (DINO_PX // card.patch_px) ** 2)
    say(f"the default and AnomalyDINO: {n} frames in turn")
    dino_s: list[float] = []
    own_s: dict[tuple[int, str], list[float]] = {key: [] for key in judges}
    for place, shot in enumerate(shots):
        seconds = timed_call(partial(dino, shot.image))[0]
        if place:
            dino_s.append(seconds)
        for key, judge in judges.items():
            seconds = timed_call(partial(judge, shot.image))[0]
            if place:
                own_s[key].append(seconds)
    theirs = Timing.of(dino_s).median_ms
    ours = {key: Timing.of(seconds).median_ms for key, seconds in own_s.items()}
    base = ours[INPUT_PX, "fp32"]
    rows = [["AnomalyDINO", f"{DINO_PX}", "fp32", f"{theirs:.1f}", f"{theirs / base:.2f}", "1.000"]]
    rows += [
        ["edge-uad", f"{size}", one, f"{ms:.1f}", f"{ms / base:.2f}", f"{ms / theirs:.3f}"]
        for (size, one), ms in ours.items()
    ]
    fastest = {size: min(ms for (its, _), ms in ours.items() if its == size) for size, _ in ours}
    fine_px = card.input_hw[0]
    goals: dict[str, list[object]] = {
        f"{fine_px} px in its fastest precision over {INPUT_PX} px in fp32": [fastest[fine_px] / base, "<=", FINE_GOAL],
        f"{INPUT_PX} px in its fastest precision over AnomalyDINO's steps": [
            fastest[INPUT_PX] / theirs,
            "<=",
            DINO_GOAL,
        ],
    }
    by_name = {f"{size} px, {one}": ms for (size, one), ms in ours.items()}
    return rows, {"n": n, "anomaly_dino_ms": theirs, "edge_uad_ms": by_name, "goals": goals}


def inspector_of(backbone: Backbone, bank: PatchBank, geometry: Geometry, *, search_threads: int = 0) -> Inspector:
    manifest = replace(bank.manifest, geometry=geometry)
    embedder = make_embedder(
        backbone,
        geometry=geometry,
        roi=None,
        bpm_kernel=manifest.bpm_kernel,
        bpm_threshold=manifest.bpm_threshold,
    )
    of_geometry = PatchBank.sealed(
        patches=bank.patches, patch_image=bank.patch_image, calibration=bank.calibration, manifest=manifest
    )
    return Inspector(embedder=embedder, bank=of_geometry.searched_by(threads=search_threads))


if __name__ == "__main__":
    sys.exit(main())
