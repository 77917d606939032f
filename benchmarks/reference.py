"""The published implementation's steps, in plain eager torch, against edge-uad on the same frames in the same run.

    python -m benchmarks.reference

Written anew from the paper and what is known of its code: all twelve blocks with their whole attention maps, every
patch searched in a faiss IndexFlatL2 of 5 000, the heatmap by interpolation and a Gaussian filter. ViT-S/14 has
DINOv2's weights; of S/16 and S/8 only the layout is taken, with random weights: times do not depend on them.
"""

import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import faiss
import numpy as np
import torch
from PIL import Image
from rich.console import Console
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn import functional

from bank_tools.bench.clock import Timing, timed_call
from bank_tools.bench.frames import bank_of, bank_of_size, decoded, packaged_frames
from benchmarks.report import Report, Table, options_of, say
from edge_uad.inference.bank import PatchBank
from edge_uad.inference.inspector import Inspector
from edge_uad.interfaces import Backbone
from edge_uad.progress import SilentProgress
from edge_uad.records import Float32, Geometry, UInt8
from edge_uad.runtime.assemble import make_embedder
from edge_uad.runtime.backbones import load_backbone
from edge_uad.runtime.in_order import in_order
from edge_uad.runtime.workers import available_cores
from export.architecture import VitSpec, VitWeights
from export.fetch import fetch_weights, load_named
from export.request import ExportRequest
from export.to_onnx import export_onnx
from export.vit import VisionTransformer, torch_vit
from export.weights import IMAGENET_MEAN, IMAGENET_STD, PAPER_ATTENTION_LAYER, PAPER_LAYERS

N_BANK = 5000
N_LEARNED = 8
INPUT_PX, RESIZED_PX = 224, 256
GOAL = 0.2
FRAMES = {"ViT-S/14": 16, "ViT-S/16": 16, "ViT-S/8": 6}


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
            q, k, v = block.attn.project(block.norm1(x))
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
            "*edge-uad* takes the whole frame to the input, its default; *paper* is edge-uad with the paper's resize "
            "and crop, where the scores can be compared (there a resized picture is rounded to 8 bits, here not). "
            "*parallel* is the default's time per frame where frames wait and each is judged on one core. "
            f"The goal is {GOAL:g} of the published time with exact results."
        ),
    )
    rows = []
    for layout in layouts():
        say(f"{layout.name}: export")
        with tempfile.TemporaryDirectory() as folder:
            rows.append(compare(layout, Path(folder) / "model.onnx", 2 if options.quick else FRAMES[layout.name]))
    columns = (
        *("layout", "weights", "published ms", "edge-uad ms", "ratio", "parallel ms", "ratio", "paper ms", "ratio"),
        *("score", "largest Δ"),
    )
    report.add(Table("one frame", columns, [row for row, _ in rows]))
    report.facts = {row[0]: facts for row, facts in rows}
    report.facts["goals"] = {
        f"{row[0]}: edge-uad's time over the published implementation's": [facts["ratio"], "<=", GOAL]
        for row, facts in rows
    }
    report.close(options)
    return 0


def layouts() -> list[Layout]:
    return [
        Layout("ViT-S/14", genuine, "DINOv2"),
        Layout("ViT-S/16", lambda: random_vit(16), "random"),
        Layout("ViT-S/8", lambda: random_vit(8), "random"),
    ]


def genuine() -> VisionTransformer:
    return torch_vit(load_named("dinov2_vits14", fetch_weights("dinov2_vits14", Console(stderr=True))))


def random_vit(patch_px: int) -> VisionTransformer:
    torch.manual_seed(0)
    spec = VitSpec(dim=384, heads=6, depth=12, patch_px=patch_px, pos_grid=INPUT_PX // patch_px)
    return VisionTransformer(spec).eval().requires_grad_(False)


def compare(layout: Layout, path: Path, n: int) -> tuple[list[str], dict[str, object]]:
    """The table's row, and the figures behind it."""
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
    default, as_paper = (inspector_of(backbone, bank, geometry) for geometry in (Geometry.STRETCH, Geometry.PAPER))
    on_one_core = inspector_of(load_backbone(path, threads=1), bank, Geometry.STRETCH, search_threads=1)
    shots = [decoded(message) for message in frames.first(n + 1)]
    published(shots[0].image)
    for inspector in (default, on_one_core):
        inspector.inspect(shots[0])
    say(f"{layout.name}: {n} frames in turn")
    seconds: dict[str, list[float]] = {"published": [], "default": [], "as the paper": []}
    scores, differences = [], []
    for shot in shots[1:]:
        their_s, (score, _) = timed_call(lambda shot=shot: published(shot.image))
        default_s, _ = timed_call(lambda shot=shot: default.inspect(shot))
        paper_s, verdict = timed_call(lambda shot=shot: as_paper.inspect(shot))
        for name, one_s in zip(seconds, (their_s, default_s, paper_s), strict=True):
            seconds[name].append(one_s)
        scores.append(score)
        differences.append(abs(score - verdict.score))
    waiting_s, _ = timed_call(lambda: list(in_order(on_one_core.inspect, shots[1:], workers=available_cores())))
    parallel_ms = 1000 * waiting_s / n
    theirs, ours, papers = (Timing.of(taken) for taken in seconds.values())
    facts = {
        "n": n,
        "published": asdict(theirs),
        "edge_uad": asdict(ours),
        "edge_uad_paper_geometry": asdict(papers),
        "edge_uad_parallel_ms": parallel_ms,
        "ratio_parallel": parallel_ms / theirs.median_ms,
        "ratio": ours.median_ms / theirs.median_ms,
        "ratio_paper_geometry": papers.median_ms / theirs.median_ms,
        "median_score": float(np.median(scores)),
        "largest_score_difference": max(differences),
    }
    row = [
        layout.name,
        layout.weights,
        f"{theirs.median_ms:.1f}",
        f"{ours.median_ms:.1f}",
        f"{facts['ratio']:.3f}",
        f"{parallel_ms:.1f}",
        f"{facts['ratio_parallel']:.3f}",
        f"{papers.median_ms:.1f}",
        f"{facts['ratio_paper_geometry']:.3f}",
        f"{facts['median_score']:.4f}",
        f"{facts['largest_score_difference']:.1e}",
    ]
    return row, facts


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
