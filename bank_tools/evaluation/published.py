"""Published figures of the method (arXiv 2307.12540), for comparison on the same dataset."""

from dataclasses import dataclass

from bank_tools.datasets import Dataset

MVTEC_AD = frozenset(
    {
        "bottle", "cable", "capsule", "carpet", "grid", "hazelnut", "leather", "metal_nut", "pill", "screw", "tile",
        "toothbrush", "transistor", "wood", "zipper",
    }
)  # fmt: skip

DEFECT, SEMANTIC, MULTI_CLASS, LOW_SHOT, CLUSTER, ABLATE = (
    "defect", "semantic", "multi-class", "low-shot", "cluster", "ablate",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Published:
    """One published figure."""

    setting: str
    metric: str
    value: float


_MVTEC: dict[str, tuple[Published, ...]] = {
    DEFECT: (
        Published("DINO ViT-B/8, mean of 15", "image AUROC", 0.9932),
        Published("DINO ViT-B/8, mean of 15", "pixel AUROC", 0.9848),
        Published("iBOT ViT-B/16, mean of 15", "image AUROC", 0.9911),
        Published("iBOT ViT-B/16, mean of 15", "pixel AUROC", 0.9830),
    ),
    MULTI_CLASS: (
        Published("DINO ViT-B/8, mean of 15", "image AUROC", 0.9915),
        Published("DINO ViT-B/8, mean of 15", "pixel AUROC", 0.9833),
    ),
    LOW_SHOT: (
        Published("one good image, about", "image AUROC", 0.90),
        Published("fifty good images", "image AUROC", 0.98),
    ),
    CLUSTER: tuple(
        Published(f"DINO ViT-B/8, {features}", metric, value)
        for features, values in {
            "top 0.05": (0.547, 0.433, 0.645),
            "top 0.01": (0.613, 0.505, 0.707),
            "the farthest patch": (0.520, 0.379, 0.604),
            "all patches": (0.392, 0.276, 0.524),
        }.items()
        for metric, value in zip(("NMI", "ARI", "F1"), values, strict=True)
    ),
    ABLATE: (
        *(
            Published(f"bpm-kernel={kernel}", "image AUROC", value)
            for kernel, value in {1: 0.9300, 3: 0.9815, 5: 0.9931, 7: 0.9932, 13: 0.9935}.items()
        ),
        *(
            Published(f"bpm-threshold={threshold}", metric, value)
            for threshold, values in {
                "0.1": (0.9932, 0.9847),
                "0.2": (0.9910, 0.9708),
                "0.3": (0.9884, 0.9449),
                "soft": (0.9738, 0.9488),
            }.items()
            for metric, value in zip(("image AUROC", "pixel AUROC"), values, strict=True)
        ),
    ),
}
_ONE_CLASS: dict[str, tuple[Published, ...]] = {
    "CIFAR-10": (Published("iBOT", "image AUROC", 0.947), Published("DINO", "image AUROC", 0.929)),
    "CIFAR-100": (Published("iBOT", "image AUROC", 0.912), Published("DINO", "image AUROC", 0.900)),
    "ImageNet-30": (Published("iBOT", "image AUROC", 0.976), Published("DINO", "image AUROC", 0.968)),
    "Species-60": (Published("DINO", "image AUROC", 0.9264),),
}


def published(dataset: Dataset, task: str) -> tuple[Published, ...]:
    """The figures for this dataset and task; none where the dataset is another one, or only a part of it is there."""
    if frozenset(category.name for category in dataset.categories) == MVTEC_AD:
        return _MVTEC.get(task, ())
    if task == SEMANTIC:
        return _ONE_CLASS.get(_one_class_name(dataset), ())
    return ()


def _one_class_name(dataset: Dataset) -> str:
    n_classes = len(dataset.categories)
    if dataset.layout == "cifar":
        return {10: "CIFAR-10", 20: "CIFAR-100"}.get(n_classes, "")
    name = dataset.name.lower().replace("_", "").replace("-", "")
    if "imagenet" in name and n_classes == 30:
        return "ImageNet-30"
    return "Species-60" if "species" in name and n_classes == 60 else ""
