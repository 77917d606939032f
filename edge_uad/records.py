"""The records that travel the frame's way, from capture to verdict.

Frozen and slotted. H, W are pixels; gh × gw is the patch grid, N = gh·gw its size; D is the embedding
dimension; M is the number of patches in the memory bank. Boxes are ``(x, y, w, h)`` in image pixels.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal

WIRE_SCHEMA = 1
"""Version of what is published; raised when a field changes its meaning."""

MAX_BPM_KERNEL = 255
"""Beyond twice the grid a larger kernel changes nothing; no grid of ours comes near."""

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Float32 = NDArray[np.float32]
    UInt8 = NDArray[np.uint8]
    Bool = NDArray[np.bool_]
    Int = NDArray[np.int64]
else:
    # the command line reads the enumerations below and must start without numpy
    Float32 = UInt8 = Bool = Int = Any

Box = tuple[int, int, int, int]
"""x, y, w, h in image pixels."""
Rect = tuple[float, float, float, float]
"""x, y, w, h, with fractions of a pixel."""

Provider = Literal["cpu", "cuda", "tensorrt", "openvino"]
"""What runs the backbone."""
SearchDevice = Literal["cpu", "gpu"]
"""What searches the bank."""
Precision = Literal["fp32", "fp16"]
"""Of a model's weights and blocks; input and outputs are float32 always."""
LowerPrecision = Literal["bf16", "int8"]
"""In which a processor may run an fp32 model: products of bfloat16 numbers, or of whole numbers."""
InferencePrecision = Literal["fp32", "bf16", "int8"]
WantedPrecision = Literal["auto", "fp32", "bf16", "int8"]
"""*auto*: the fastest that the bank is certified for, where this machine can do it; else fp32."""
Join = Literal["mean", "concat", "levels"]
"""How the tokens of several blocks become one: the mean of the raw tokens; the raw tokens one after the other; or
*levels*, each block's token at unit norm, one after the other, so that a block of small norm counts as much as others:
the squared distance of two such tokens is the mean of the blocks' own squared distances."""
IndexChoice = Literal["auto", "always", "never"]
"""Whether a bank is searched in lists, where its own good images show that this changes nothing: from a size on at
which it pays, whatever the size, or never."""
QueueMode = Literal["latest", "every"]
"""Which frames of a station are judged: the newest one, or every one in turn."""
TriggerMode = Literal["free_run", "software", "hardware"]
"""Which frames of a station are judged: all that come; for each trigger the first one exposed after it; or the n-th one
after the n-th trigger, which was announced before the camera got its pulse."""


class Decision(StrEnum):
    """The answer for one frame. The line treats *invalid*, and silence, as reject."""

    NORMAL = "normal"
    ANOMALOUS = "anomalous"
    INVALID = "invalid"


NO_FRAME_ID = -1
"""``frame_id`` where there is a verdict and no frame: a trigger for which none came, or a message that was none."""
MAX_TRIGGER_ID = 2**32 - 1


class TriggerFailure(StrEnum):
    """Why a trigger has an *invalid* verdict although no frame was judged for it; ``reason`` of that verdict."""

    DEADLINE = "deadline"
    """A frame was there, and not judged in time."""
    NO_IMAGE = "no image"
    """No frame came in time, or the source has ended."""
    CAMERA_GONE = "camera gone"
    """The source was lost while the trigger waited, or is lost."""
    ID_GAP = "id gap"
    """Its frame was lost on the way, or which frame is its own cannot be said for certain."""
    ABORTED = "aborted"
    """The operator or the PLC had frames and triggers counted anew."""
    STOPPING = "stopping"
    """The daemon was stopped first."""


@dataclass(frozen=True, slots=True)
class Trigger:
    """A request to judge one part."""

    trigger_id: int
    """1 to 2³² − 1, chosen by who sends it."""
    part_id: str | None
    """The line's own name for the part; the verdict repeats it."""
    received_mono_ns: int
    """When it reached this machine, on the monotonic clock: the deadline counts from here."""


class Geometry(StrEnum):
    """How an image comes to the model's input size (ALGORITHM §1)."""

    STRETCH = "stretch"
    """The whole region of interest, so that nothing at its edge goes uninspected: the default."""
    PAPER = "paper"
    """Shorter side to 256 (of 224), centre crop: the paper's; what lies outside the crop is not inspected. Where
    tiles make the input longer than wide or wider than long, the picture is resized until it covers it."""
    CIFAR = "cifar"
    """To half the input size, zero-padded to the whole: the paper's for 32-pixel pictures."""


class Rotations(StrEnum):
    """In which orientations good parts are learned."""

    NONE = "none"
    """As they were taken: the default."""
    QUARTER = "quarter"
    """In all four, quarter turns of each other."""
    AUTO = "auto"
    """In all four where the good parts themselves call for it; a bank says what was decided."""


def joined_width(join: Join, layers: tuple[int, ...]) -> int:
    """How many times as wide as one block's token the joined token of these blocks is."""
    return 1 if join == "mean" else len(layers)


def reducible(geometry: Geometry, roi: Box | None) -> bool:
    """Whether a picture may be reduced while it is decoded.

    A region of interest counts the whole picture's pixels, and the other geometries resample these as the paper does.
    """
    return geometry is Geometry.STRETCH and roi is None


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameIdentity:
    """Which frame: what every verdict repeats, whether the picture could be read or not."""

    station: str
    frame_id: int
    """Folders, videos and cameras count from 0; over ZeroMQ it is the sender's own number. -1: there is no frame."""
    captured_at_ns: int
    """Unix time of capture; without a frame, of the trigger."""
    captured_mono_ns: int
    """The same moment on the monotonic clock of this machine, for latency and age."""
    part_id: str | None = None
    """The line's own name for the part: a serial number, or the file's name."""
    dropped_before: int = 0
    """Frames of this station skipped since the one before."""
    trigger_id: int | None = None
    """Of the trigger that the frame was taken for; None in free run."""
    triggered_mono_ns: int | None = None
    """When that trigger was received, on the monotonic clock."""

    @property
    def counted_from_mono_ns(self) -> int:
        """What deadline and latency count from: the trigger, or where there is none the capture."""
        return self.captured_mono_ns if self.triggered_mono_ns is None else self.triggered_mono_ns


@dataclass(frozen=True, slots=True, eq=False)
class ModelInput:
    """A picture resized and normalised for the backbone."""

    pixels: Float32
    """float32 (3, h, w)."""
    preprocessor: object
    """The object that made them; another preprocessor makes other pixels of the same picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame(FrameIdentity):
    """A picture to be judged."""

    image: UInt8
    """uint8 (H, W, 3), RGB."""
    taken_hw: tuple[int, int] | None = None
    """The picture's own size, where ``image`` is smaller, a JPEG decoded at a part of it."""
    preprocessed: ModelInput | None = None
    """The model's input, where it was made while the frame waited."""

    @property
    def hw(self) -> tuple[int, int]:
        """Height and width of the picture as it was taken; points in it are in these pixels."""
        return self.taken_hw or (self.image.shape[0], self.image.shape[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadableFrame(FrameIdentity):
    """A frame that came but holds no picture: its verdict is *invalid*, with this reason."""

    reason: str
    payload: bytes | None = None
    """The bytes that are no picture; None where they are a file already, or too large to hold."""


AnyFrame = Frame | UnreadableFrame


@dataclass(frozen=True, slots=True)
class Placement:
    """Which part of an image the model sees, and where in its input that part lies."""

    image_rect: Rect
    """In image pixels."""
    input_rect: Rect
    """In pixels of the model's input; outside it the input is padding."""

    def to_image(self, x_px: float, y_px: float) -> tuple[float, float]:
        """From a point of the model's input to the point of the image it shows."""
        input_x, input_y, input_w, input_h = self.input_rect
        x, y, w, h = self.image_rect
        return x + (x_px - input_x) * w / input_w, y + (y_px - input_y) * h / input_h

    def on_scaled(self, image_hw: tuple[int, int], scaled_hw: tuple[int, int]) -> "Placement":
        """The same part of the same image, after that was scaled from one size to another."""
        by_height, by_width = scaled_hw[0] / image_hw[0], scaled_hw[1] / image_hw[1]
        x, y, w, h = self.image_rect
        return Placement((x * by_width, y * by_height, w * by_width, h * by_height), self.input_rect)


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityTolerance:
    """How far a lower precision may lie from fp32."""

    flip_ratio: float
    """Largest part of the images whose decision may differ."""
    auroc_loss: float
    """By so much the image AUROC may be lower."""
    score_ratio: float
    """Largest 99th percentile of the score differences, as a part of the threshold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityCertificate:
    """What a lower precision does to the verdicts: the same images judged in both, side by side."""

    reference_model_id: str
    """SHA-256 of the fp32 model file compared with."""
    runtime: str
    """What ran the model: a provider of an ONNX file, or ``engine``. It holds for no other."""
    n_good: int
    """Good images, each judged against others."""
    n_test: int
    """Other images judged."""
    images_digest: str
    """SHA-256 over the digests of the images, in their order."""
    threshold: float
    """Of the fp32 bank."""
    n_judged: int
    """Images that at least one of the two could judge, good and test ones."""
    flips: int
    """Images with another decision than fp32's."""
    auroc_reference: float | None
    """Image AUROC of fp32 on the test images; None where these are not both good and anomalous."""
    auroc: float | None
    """That of this precision."""
    largest_score_difference: float
    p99_score_difference: float
    tolerance: ParityTolerance
    """What was allowed when it was made."""
    made_at: str
    """ISO 8601, UTC."""
    made_by: str
    """edge-uad and its version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertifiedPrecision:
    """A lower precision in which a bank may be judged: what it did to the verdicts, and what it won."""

    precision: LowerPrecision
    features: tuple[str, ...]
    """What the processor must have, by the names of ``edge_uad.inference.backbones.processor``."""
    embedding_ms: float
    """Of one picture on one core, the median, on the machine that built the bank."""
    fp32_embedding_ms: float
    """The same in fp32, measured in turn with it."""
    certificate: ParityCertificate
    """Of good parts that the bank compared with had not seen, and of synthetic defects on them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """Description of a backbone, kept inside its file."""

    model_id: str
    """SHA-256 of the model file, in hexadecimal: filled in when the file is read, never stored in it."""
    backbone: str
    input_hw: tuple[int, int]
    grid_hw: tuple[int, int]
    patch_px: int
    dim: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    layers: tuple[int, ...]
    """0-based blocks whose patch tokens are joined."""
    attention_layer: int
    """0-based block whose CLS attention is the mask's source."""
    precision: Precision
    licence: str
    weights_sha256: str
    join: Join = "mean"
    neighbourhood: int = 1
    """Side, in patches, of the surroundings blended into each token; 1 for the patch alone, the paper's."""
    top_ratio: float = 0.05
    """Part of the patches that makes the score, unless a bank states another; the paper's 5 %."""
    certificate: ParityCertificate | None = None
    """Of a precision lower than fp32: without one that holds, the model is not run."""

    @property
    def levels(self) -> int:
        """How many levels a bank of this model is searched at: one for each block where these stand side by side."""
        return len(self.layers) if self.join == "levels" else 1


MAX_TILES = 64
"""Of one picture: each costs an inference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiling:
    """One picture as overlapping tiles, each of the model's input size."""

    tiles_hw: tuple[int, int]
    """How many, down and across."""
    overlap_hw: tuple[int, int]
    """By how many patches neighbours overlap, down and across."""

    def grid_hw(self, tile_hw: tuple[int, int]) -> tuple[int, int]:
        """The patch grid of the whole picture, from that of a tile."""
        (rows, columns), (down, across) = self.tiles_hw, self.overlap_hw
        return rows * tile_hw[0] - (rows - 1) * down, columns * tile_hw[1] - (columns - 1) * across

    def input_hw(self, card: ModelCard) -> tuple[int, int]:
        """Height and width in pixels of the whole picture, from the card of the model that sees a tile."""
        height, width = self.grid_hw(card.grid_hw)
        return height * card.patch_px, width * card.patch_px

    def fits(self, tile_hw: tuple[int, int]) -> bool:
        """Whether there is a tile and not too many, and none overlaps its neighbour wholly."""
        (rows, columns), (down, across) = self.tiles_hw, self.overlap_hw
        counted = rows >= 1 and columns >= 1 and rows * columns <= MAX_TILES
        return counted and 0 <= down < tile_hw[0] and 0 <= across < tile_hw[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """One image, seen by the backbone."""

    tokens: Float32
    """(N, D), unit norm per patch, row by row of the grid."""
    attention: Float32
    """(N,), the CLS token's attention to each patch, mean over heads."""
    grid_hw: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchMask:
    """Which patches show the object (Back Patch Masking)."""

    foreground: Bool
    """(N,)"""
    grid_hw: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchDistances:
    """How far each patch lies from what good parts look like."""

    squared: Float32
    """(N,), squared Euclidean distance to the memory bank, 0..4; 0 where masked out."""
    nearest: Int
    """(N,), row of the nearest bank patch; -1 where masked out."""
    grid_hw: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexCertificate:
    """What a search in lists does to the scores of a bank's own good images, each against others, beside the exact one.

    Its distances are never less than the exact ones: what it can do is a false alarm, never a missed defect.
    """

    n_lists: int
    """The patches of each level lie in so many lists."""
    lists_read: int
    """So many of them each patch of a frame is searched in; the farthest ones, which make the score, in more."""
    n_images: int
    """Good images compared."""
    recall: float
    """Share of their patches that found none farther than the exact search did."""
    flips: int
    """Images with another decision."""
    largest_score_difference: float
    p99_score_difference: float
    seconds: float
    """What the index and this comparison took."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BankManifest:
    """How a memory bank was made, and so how it must be queried."""

    bank_id: str
    """SHA-256 of the bank's content: all tensors and every other field of this manifest."""
    schema: int
    model_id: str
    backbone: str
    grid_hw: tuple[int, int]
    geometry: Geometry
    roi: Box | None
    bpm_kernel: int
    bpm_threshold: float
    """0 keeps every patch."""
    top_ratio: float
    neighbours: int
    coreset_ratio: float
    seed: int
    n_images: int
    n_unreadable: int
    """Files named for the bank that could not be read; they were skipped and listed."""
    n_empty: int
    """Images that could be read but not embedded, such as one smaller than the region of interest."""
    n_patches: int
    calibration_folds: int
    """Each good image was scored against a coreset of the images of the other folds."""
    threshold: float
    false_alarm_rate: float
    """The requested rate; the threshold is the calibration scores' quantile at it (docs/calibration.md)."""
    built_at: str
    """ISO 8601, UTC."""
    built_by: str
    """edge-uad and its version."""
    source_digest: str
    """SHA-256 over the digests of the images, in their order."""
    image_hw: tuple[int, int] | None = None
    """Height and width of the good images, where all had one size: the region of interest is in its pixels."""
    reduced_decode: bool = False
    """Large JPEG pictures, learned or judged, are decoded at a part of their size; see ``Preprocessor``."""
    levels: int = 1
    """Each patch has so many equally long parts, one for a block of the backbone; each finds its own neighbour."""
    max_patches: int | None = None
    """The bound that the coreset was given; None for none."""
    background_ratio: float | None = None
    """How far the background of unseen good parts lies from the bank, over how far the part itself does: high
    quantiles of the distances. It decided on the mask; None where that was told, or would leave out nothing."""
    tiling: Tiling | None = None
    """Each picture is seen as overlapping tiles; None as a whole."""
    pixel_threshold: float | None = None
    """Heat above which a pixel is drawn, from good parts alone; None in banks that were built before there was one."""
    n_excluded: int = 0
    """Images left out of the bank and of calibration, by the user's word, because they scored far above the others."""
    cycle_ms: float | None = None
    """The line's time for a part, for which the model was chosen on the machine that built the bank; None for none."""
    precisions: tuple[CertifiedPrecision, ...] = ()
    """The lower precisions that it may be judged in, the fastest first; in fp32 it may always be judged. Its patches
    and its calibration are fp32."""
    index: IndexCertificate | None = None
    """The bank is searched in lists on the CPU; None where every patch is searched."""
    rotations: Rotations = Rotations.NONE
    """In which orientations the good images were learned: as they were taken, or in all four."""
    turned_ratio: float | None = None
    """How high unseen good parts score against turned views of the others, over how high against these as they were
    taken: geometric means. It decided on the rotations; None where those were told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The answer for one frame."""

    station: str
    frame_id: int
    part_id: str | None
    captured_at_ns: int
    decision: Decision
    reason: str | None
    """Why *invalid*; None otherwise."""
    score: float | None
    threshold: float
    p_value: float | None
    """Share of good parts expected to score as high: conformal, from the bank's calibration."""
    foreground_ratio: float | None
    peak: tuple[int, int] | None
    """x, y of the highest heat, in image pixels."""
    heatmap: Float32 | None
    """(h, w) at the model's input size: squared distances, upsampled and blurred."""
    latency_ms: float
    """From trigger or, in free run, from capture to verdict; a frame over ZeroMQ counts from its arrival, unless its
    sender's clock is trusted."""
    dropped_before: int
    model_id: str
    bank_id: str
    sequence: int | None = None
    """Number of this verdict among those of its station since the daemon started, from 1; None outside a daemon."""
    trigger_id: int | None = None
    """Of the trigger that this is the one answer to; left out of the header where there was no trigger."""
    schema: int = WIRE_SCHEMA


class StationState(StrEnum):
    """State of a station, published on ``status/<station>``."""

    STARTING = "starting"
    RUNNING = "running"
    RECONNECTING = "reconnecting"
    ENDED = "ended"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True, kw_only=True)
class StationStatus:
    """One station's heartbeat, every second: distinguishes "no defects" from "no daemon"."""

    station: str
    at_ns: int
    state: StationState
    message: str | None
    """For the operator, such as why the source is lost."""
    frames_seen: int
    """Accepted frames plus dropped ones."""
    judged: int
    """Verdicts given, invalid ones among them."""
    dropped: int
    invalid: int
    last_frame_age_s: float | None
    bank_id: str
    model_id: str
    reconnects: int = 0
    """How often the source was lost or could not be opened."""
    hung_reads: int = 0
    """Calls into the source that were left behind and have not returned."""
    verdict_overruns: int = 0
    """How often a verdict found a subscriber's queue full: that one misses verdicts until it has caught up."""
    heatmap_overruns: int = 0
    status_overruns: int = 0
    heatmaps_skipped: int = 0
    """Heatmaps that were not drawn because too many waited."""
    ready: bool = False
    """The first inference is done: frames are judged."""
    refused_bank: str | None = None
    """Why the newest bank file is not judged by; the one named by ``bank_id`` goes on."""
    sender_clock_offset_s: float | None = None
    """The clock of the station's ZeroMQ sender less this machine's, measured over the last minute; None elsewhere."""
    precision: InferencePrecision = "fp32"
    """Of the backbone's arithmetic, in which its frames are judged."""
    schema: int = WIRE_SCHEMA
