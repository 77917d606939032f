"""A folder for each class: ImageNet-30, Species-60, CIFAR as pictures, or anybody's own classes.

ImageNet-30 (Hendrycks et al., NeurIPS 2019) and Species-60 (UniFormaly, appendix; a part of Hendrycks et al.'s
Species) come as ``one_class_train`` and ``one_class_test``; elsewhere the two are called ``train`` and ``test``. A
split list (``train.txt`` or ``one_class_train.txt`` beside the folders: on each line a picture's path below its
split's folder, and after it perhaps a label) says which pictures count; without one all do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bank_tools.datasets.folders import pictures, subfolders
from bank_tools.datasets.records import Category, ImageFile, ImageOrigin, Layout, Sample
from bank_tools.datasets.wording import counted, listed
from edge_uad.errors import UsageError

SPLITS = (("one_class_train", "one_class_test"), ("train", "test"))
EXPECTED = """\
ROOT/
├── train/                  (or one_class_train/)
│   ├── <class>/            *.jpg *.png …
│   └── <another class>/
├── test/                   (or one_class_test/)
│   ├── <class>/            *.jpg *.png …
│   └── <another class>/
├── train.txt               (optional: which of them count,
└── test.txt                 as <class>/<picture>)"""


SPECIES_60 = (
    "abudefduf_vaigiensis", "acanthurus_coeruleus", "acarospora_socialis", "acris_gryllus", "adolphia_californica",
    "agaricus_augustus", "amanita_parcivolvata", "ameiurus_natalis", "anartia_jatrophae", "aplysia_californica",
    "arcyria_denudata", "arion_ater", "aulostomus_chinensis", "bjerkandera_adusta", "bombus_pensylvanicus",
    "callianax_biplicata", "calochortus_apiculatus", "campsis_radicans", "cepaea_nemoralis", "cladonia_chlorophaea",
    "cochlodina_laminata", "crepidotus_applanatus", "cypripedium_macranthos", "dendrobates_auratus",
    "diaulula_sandiegensis", "drosera_rotundifolia", "echinocereus_pectinatus_pectinatus", "eremnophila_aureonotata",
    "etheostoma_caeruleum", "fistularia_commersonii", "ganoderma_tsugae", "halysidota_tessellaris",
    "herichthys_cyanoguttatus", "hippocampus_whitei", "hygrocybe_miniata", "hypomyces_chrysospermus",
    "juniperus_turbinata", "kuehneromyces_mutabilis", "laetiporus_gilbertsonii", "lepisosteus_platyrhincus",
    "leucocoprinus_cepistipes", "lissachatina_fulica", "lycium_californicum", "megapallifera_mutabilis",
    "mononeuria_groenlandica", "neverita_lewisii", "octopus_tetricus", "orienthella_trilineata",
    "phyllotopsis_nidulans", "planorbarius_corneus", "protoparmeliopsis_muralis", "quercus_dumosa",
    "ruditapes_philippinarum", "salamandra_lanzai", "swietenia_macrophylla", "teloschistes_chrysophthalmus",
    "tramea_onusta", "umbra_limi", "vespula_squamosa", "zelus_renardii",
)  # fmt: skip
"""The sixty classes of the Species set that UniFormaly names, in the order of its appendix. Species was published with
Hendrycks et al., Scaling out-of-distribution detection, ICML 2022."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """An image and its class."""

    name: str
    label: str
    origin: ImageOrigin


def matches(root: Path) -> bool:
    """Whether a pair of splits is here, with a folder for each class."""
    return _splits(root) is not None


def read(root: Path) -> list[Category]:
    """Each class of the first split against the rest of the second."""
    return one_vs_rest(*labelled(root))


def labelled(root: Path) -> tuple[list[Labelled], list[Labelled]]:
    """What banks may learn from, and what is scored; nothing where there are no splits.

    Raises:
        UsageError: a split list cannot be read, or lists what is not there.
    """
    splits = _splits(root)
    return ([], []) if splits is None else (_labelled(root / splits[0]), _labelled(root / splits[1]))


def class_names(root: Path) -> set[str]:
    """The classes that both splits have."""
    splits = _splits(root)
    if splits is None:
        return set()
    train, test = ({folder.name for folder in subfolders(root / split)} for split in splits)
    return train & test


def _splits(root: Path) -> tuple[str, str] | None:
    if (root / "ground_truth").exists():  # somebody's form of a defect set: a kind of defect is no class
        return None
    for train, test in SPLITS:
        if subfolders(root / train) and subfolders(root / test):
            return train, test
    return None


def _labelled(split: Path) -> list[Labelled]:
    chosen = _split_list(split.with_suffix(".txt"))
    found = [
        Labelled(file.relative_to(split.parent).as_posix(), folder.name, ImageFile(file))
        for folder in subfolders(split)
        for file in pictures(folder, deep=True)
    ]
    if chosen is None:
        return found
    by_path = {item.name.removeprefix(f"{split.name}/"): item for item in found}
    picked = {line: by_path.get(line) or by_path.get(line.rsplit(maxsplit=1)[0]) for line in chosen}
    lost = [line for line, item in picked.items() if item is None]
    if lost:
        raise UsageError(
            f"{split.with_suffix('.txt')} lists {counted(lost, 'picture')} that {split.name}/ does not hold "
            f"({listed(lost)}); unpack the dataset again or correct the list"
        )
    return [item for item in picked.values() if item is not None]


def _split_list(path: Path) -> list[str] | None:
    if not path.is_file():
        return None
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the split list {path} cannot be read: {error}") from error
    return [line.strip() for line in lines if line.strip()]


def one_vs_rest(train: Sequence[Labelled], test: Sequence[Labelled]) -> list[Category]:
    """A category for each class that can be learned, scored on the test images of all classes.

    Args:
        train: what banks may learn from.
        test: scored in every category; one of an unlearned class is an anomaly everywhere.
    """
    as_normal = [_sample(item, anomalous=False) for item in test]
    as_anomaly = [_sample(item, anomalous=True) for item in test]
    return [
        Category(
            name=label,
            good=tuple(_sample(item, anomalous=False) for item in train if item.label == label),
            test=tuple(
                normal if normal.kind == label else anomaly
                for normal, anomaly in zip(as_normal, as_anomaly, strict=True)
            ),
        )
        for label in dict.fromkeys(item.label for item in train)
    ]


def _sample(item: Labelled, *, anomalous: bool) -> Sample:
    return Sample(name=item.name, kind=item.label, anomalous=anomalous, origin=item.origin)


def matches_species60(root: Path) -> bool:
    """Whether folders of classes are here, all sixty among them."""
    return set(SPECIES_60) <= class_names(root)


def read_species60(root: Path) -> list[Category]:
    """Each of the sixty against the others; classes beyond them are left out."""
    train, test = ([item for item in split if item.label in SPECIES_60] for split in labelled(root))
    return one_vs_rest(train, test)


LAYOUT = Layout(
    name="classes", title="folders of classes", expected=EXPECTED, matches=matches, read=read, labelled_classes=True
)
SPECIES60 = Layout(
    name="species60",
    title="Species-60",
    expected=EXPECTED,
    matches=matches_species60,
    read=read_species60,
    labelled_classes=True,
)
