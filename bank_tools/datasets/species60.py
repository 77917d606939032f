"""Species-60: the sixty classes of the Species set that UniFormaly's appendix names, out of a tree that may hold more.

Species was published with Hendrycks et al., Scaling out-of-distribution detection, ICML 2022. Which pictures are
for learning is what the tree's own ``one_class_train`` and ``one_class_test``, or its split lists, say.
"""

from pathlib import Path

from bank_tools.datasets import classes
from bank_tools.datasets.layout import Layout
from bank_tools.datasets.one_vs_rest import one_vs_rest
from bank_tools.datasets.records import Category

CLASSES = (
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
"""In the paper's order."""


def matches(root: Path) -> bool:
    """Whether folders of classes are here, all sixty among them."""
    return set(CLASSES) <= classes.class_names(root)


def read(root: Path) -> list[Category]:
    """Each of the sixty against the others; classes beyond them are left out."""
    train, test = ([item for item in split if item.label in CLASSES] for split in classes.labelled(root))
    return one_vs_rest(train, test)


LAYOUT = Layout(
    name="species60",
    title="Species-60",
    expected=classes.EXPECTED,
    matches=matches,
    read=read,
    labelled_classes=True,
)
